"""Copying one policy, or all with plans and, if chosen, deployments, to another environment: first the difference."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from policies.admin import changes, finding
from policies.changing import promotion, publishing, taking_effect
from policies.files.file_errors import PolicyFileError
from policies.models import NOTE_LENGTH_MAX, Policy
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.pages import page, rendered
from tenants.models import Environment
from usage import wording


@page("policies_copy", "policies/policy/copy/")
def copy(request: HttpRequest) -> HttpResponse:
    """`?policy=` names the one, `?to=` the environment; a POST publishes what was shown."""
    asked = request.POST if request.method == "POST" else request.GET
    policy = _policy(request, asked.get("policy", ""))
    source = policy.environment if policy else environments.shown(request)
    if source is None:
        raise PermissionDenied
    finding.require_change(request, source.tenant_id)
    others = list(source.tenant.environments.exclude(pk=source.pk).select_related("tenant"))
    target = next((each for each in others if each.slug == asked.get("to", "")), None)
    chosen = {name: policy is None and asked.get(name) == "yes" for name in ("archive", "deployments")}
    if request.method == "POST":
        return _copied(request, source, target, policy, chosen)
    return rendered(
        request,
        "console/policies/copy.html",
        f"Copy {policy.name if policy else 'all policies and plans'}",
        source=source,
        others=others,
        target=target,
        policy=policy,
        **chosen,
        **({} if target is None else _difference(source, target, policy, chosen)),
    )


def _policy(request: HttpRequest, policy_id: str) -> Policy | None:
    if not policy_id:
        return None
    try:
        found = finding.policy(request, UUID(policy_id))
    except ValueError as error:
        raise Http404 from error
    if found.archived_at is not None:
        raise Http404
    return found


def _difference(
    source: Environment, target: Environment, policy: Policy | None, chosen: Mapping[str, bool]
) -> dict[str, object]:
    looked_at = promotion.seen(source, target)
    name = policy.name if policy else None
    try:
        wanted = promotion.wanted(source, target, name=name, **chosen)
        shown = changes.shown(publishing.plan_changes(target, wanted))
    except PolicyFileError as error:
        return {"refusals": error.errors}
    return {
        "looked_at": looked_at,
        "changes": shown,
        "only_there": [] if policy else promotion.only_in_target(source, target),
    }


def _copied(
    request: HttpRequest,
    source: Environment,
    target: Environment | None,
    policy: Policy | None,
    chosen: Mapping[str, bool],
) -> HttpResponse:
    if target is None:
        raise Http404
    try:
        done = promotion.promote(
            source,
            target,
            name=policy.name if policy else None,
            **chosen,
            looked_at=request.POST.get("looked_at", ""),
            note=request.POST.get("note", "").replace("\0", "").strip()[:NOTE_LENGTH_MAX],
            actor=actor_of(request),
        )
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        said = {name: "yes" if is_chosen else "" for name, is_chosen in chosen.items()}
        back = {"to": target.slug, **said, "policy": policy.pk if policy else ""}
        return redirect(reverse("admin:policies_copy", query=back))
    messages.success(
        request, f"{wording.counted(len(done), 'change')} in {target.slug}. {taking_effect.of(target)}"
    )
    return redirect(reverse("admin:policies_policy_changelist", query={"environment": str(target)}))
