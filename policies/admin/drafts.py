"""Drafts: their list, a draft with all that publishing it means, and a policy of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse

from policies.admin import changes as shown_changes
from policies.admin import finding
from policies.admin.draft_forms import BeginForm, PolicyTextForm, PublishForm
from policies.admin.drafted_policy import DraftedPolicyAdmin
from policies.admin.felt import felt
from policies.changing import drafts, taking_effect
from policies.changing.drafts import Has
from policies.describing import differences
from policies.files import policy_file
from policies.files.file_errors import PolicyFileError
from policies.models import Draft
from policies.replaying import listing
from policies.rules import PolicyRule
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.pages import page, rendered
from usage import wording

LISTED_MAX = 100
_NEW = "name: New policy\nlimits:\n- {metric: requests, window: day, amount: 50, per: user}\n"


@page("policy_drafts", "drafts/")
def listed(request: HttpRequest) -> HttpResponse:
    """A POST begins one."""
    shown = environments.shown(request)
    if shown is None:
        raise PermissionDenied
    form = BeginForm(request.POST or None)
    if request.method == "POST":
        finding.require_change(request, shown.tenant_id)
        if form.is_valid():
            try:
                draft = drafts.begin(shown, form.cleaned_data["name"], actor=actor_of(request))
                return redirect("admin:policy_draft", draft.pk)
            except PolicyFileError as error:
                form.add_error("name", error.errors[0].message)
    return rendered(
        request,
        "console/policies/drafts.html",
        "Drafts",
        drafts=shown.drafts.order_by("published_at", "-begun_at")[:LISTED_MAX],
        form=form,
        may_change=finding.may_change(request, shown.tenant_id),
    )


@page("policy_draft", "drafts/<int:draft_id>/", of=Draft._meta.label_lower)
def draft(request: HttpRequest, draft_id: int) -> HttpResponse:
    found = _draft(request, draft_id)
    if request.method == "POST":
        return _acted(request, found)
    return _shown(request, found, PublishForm()) if found.published_at is None else _published(request, found)


def _published(request: HttpRequest, found: Draft) -> HttpResponse:
    """What it changed, for good."""
    return rendered(
        request,
        "console/policies/published_draft.html",
        found.name,
        draft=found,
        changes=shown_changes.published(drafts.published_changes(found)),
    )


def _draft(request: HttpRequest, draft_id: int) -> Draft:
    every = Draft.objects.select_related("environment__tenant")
    if draft_id >= 2**63:
        raise Http404
    found = get_object_or_404(every, pk=draft_id, environment__in=environments.visible(request))
    environments.follow(request, found.environment)
    return found


def _shown(request: HttpRequest, found: Draft, form: PublishForm) -> HttpResponse:
    live = drafts.live_of(found.environment)
    supposed = drafts.stored(found)
    context: dict[str, Any] = {"changes": [], "affected": None, "refusals": ()}
    try:
        planned = drafts.changes(found)
        context |= {
            "changes": shown_changes.shown(planned),
            "affected": partial(shown_changes.affected, found.environment, planned, supposed),
        }
    except PolicyFileError as error:
        context["refusals"] = error.errors
    return rendered(
        request,
        "console/policies/draft.html",
        found.name,
        draft=found,
        form=form,
        moved=[(each, differences.compare(each.live, each.drafted)) for each in drafts.moved(found, live)],
        missing_plans=drafts.missing_plans(found),
        contents=drafts.contents(found, live),
        environment=found.environment,
        felt=partial(felt, found.environment, supposed),
        replay=listing.newest_of(found),
        may_change=finding.may_change(request, found.environment.tenant_id),
        **context,
    )


def _acted(request: HttpRequest, found: Draft) -> HttpResponse:
    finding.require_change(request, found.environment.tenant_id)
    action = _ACTIONS.get(request.POST.get("action", ""))
    if action is None:
        raise Http404
    try:
        return action(request, found)
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        return redirect("admin:policy_draft", found.pk)


def _publish(request: HttpRequest, found: Draft) -> HttpResponse:
    form = PublishForm(request.POST)
    if not form.is_valid():
        return _shown(request, found, form)
    done = drafts.publish(
        found, edits=_edits(request), note=form.cleaned_data["note"], actor=actor_of(request)
    )
    effect = taking_effect.of(found.environment)
    drafts.keep_in_force(found, effect.since)
    messages.success(request, f"{wording.counted(len(done), 'change')}. {effect}")
    return redirect("admin:policy_draft", found.pk)


def _leave_out(request: HttpRequest, found: Draft) -> HttpResponse:
    drafts.leave_out(found, request.POST.get("name", ""), edits=_edits(request), actor=actor_of(request))
    return redirect("admin:policy_draft", found.pk)


def _settle(request: HttpRequest, found: Draft) -> HttpResponse:
    drafts.settle(
        found,
        request.POST.get("name", ""),
        take_live=request.POST["action"] == "take",
        edits=_edits(request),
        actor=actor_of(request),
    )
    return redirect("admin:policy_draft", found.pk)


_ACTIONS: dict[str, Callable[[HttpRequest, Draft], HttpResponse]] = {
    "publish": _publish,
    "leave_out": _leave_out,
    "take": _settle,
    "keep": _settle,
}


def _edits(request: HttpRequest, name: str = "edits") -> int:
    """How many the person had seen."""
    said = request.POST.get(name, "")
    return int(said) if said.isdecimal() and len(said) < 10 else -1


@page("policy_draft_discard", "drafts/<int:draft_id>/discard/")
def discard(request: HttpRequest, draft_id: int) -> HttpResponse:
    """Asks; a POST does it."""
    found = _draft(request, draft_id)
    finding.require_change(request, found.environment.tenant_id)
    if found.published_at is not None:
        return redirect("admin:policy_draft", found.pk)
    if request.method == "POST" and _discarded(request, found):
        return redirect("admin:policy_drafts")
    contents = drafts.contents(found, drafts.live_of(found.environment))
    return rendered(
        request,
        "console/policies/discard_draft.html",
        f"Discard {found.name}",
        draft=found,
        edits=str(found.edits),
        changes=[(name, has) for name, has in contents if has != Has.AS_LIVE],
        back=reverse("admin:policy_draft", args=[found.pk]),
    )


def _discarded(request: HttpRequest, found: Draft) -> bool:
    """Or there is nothing to discard any more. If not, the page says why, and shows what it would take away by now."""
    try:
        done = drafts.discard(found, edits=_edits(request, "seen"), actor=actor_of(request))
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        found.refresh_from_db()
        return False
    if done:
        messages.success(request, f"The draft {found.name} is discarded.")
    else:
        messages.error(
            request, f"Nothing was changed: the draft {found.name} was published or discarded meanwhile."
        )
    return True


@page("policy_of_draft", "drafts/<int:draft_id>/policy/")
def policy(request: HttpRequest, draft_id: int) -> HttpResponse:
    """`?name=` names the one to change; without, it is a new one. `?as=text` has it as in a policy file."""
    found = _draft(request, draft_id)
    finding.require_change(request, found.environment.tenant_id)
    if found.published_at is not None:
        return redirect("admin:policy_draft", found.pk)
    if request.GET.get("as") != "text":
        return DraftedPolicyAdmin(found, request.GET.get("name")).page(request)
    return _as_text(request, found, request.GET.get("name"))


@page("policy_of_draft_preview", "drafts/<int:draft_id>/policy/preview/")
def preview(request: HttpRequest, draft_id: int) -> HttpResponse:
    """What the posted form says; nothing is saved."""
    found = _draft(request, draft_id)
    finding.require_change(request, found.environment.tenant_id)
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    return DraftedPolicyAdmin(found, request.GET.get("name")).preview(request)


def _as_text(request: HttpRequest, found: Draft, name: str | None) -> HttpResponse:
    rule = None if name is None else drafts.rules_of(found).get(name)
    if name is not None and rule is None:
        raise Http404
    form = PolicyTextForm(request.POST or None, initial={"text": _text(rule)})
    if request.method == "POST" and form.is_valid():
        try:
            drafts.put(found, form.rule, instead_of=name, edits=_edits(request), actor=actor_of(request))
            return redirect("admin:policy_draft", found.pk)
        except PolicyFileError as error:
            form.add_error("text", [str(each) for each in error.errors])
    return rendered(
        request,
        "console/policies/draft_policy.html",
        "New policy" if rule is None else rule.name,
        draft=found,
        form=form,
        back=reverse("admin:policy_draft", args=[found.pk]),
        form_url=reverse(
            "admin:policy_of_draft", args=[found.pk], query=None if name is None else {"name": name}
        ),
    )


def _text(rule: PolicyRule | None) -> str:
    return _NEW if rule is None else policy_file.dump_one(rule)
