"""The versions of a policy: a list, two of them side by side, and going back to one."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from policies import policy_rows
from policies.admin import changes, finding, into_a_draft
from policies.admin.draft_forms import PublishForm
from policies.admin.felt import felt
from policies.changing import history, taking_effect
from policies.changing.history import Step
from policies.changing.publishing import PolicyChange
from policies.describing import differences
from policies.files.file_errors import PolicyFileError
from policies.models import Policy
from policies.rules import PolicyRule
from tenants.console.access import actor_of
from tenants.console.pages import page, rendered

VERSION_DIGITS_MAX = 10


@page("policy_versions", "policies/policy/<uuid:policy_id>/versions/")
def versions(request: HttpRequest, policy_id: UUID) -> HttpResponse:
    policy = finding.policy(request, policy_id)
    steps = history.steps(policy)
    older, newer = _compared(request, steps)
    lines = differences.compare(
        None if older is None else history.rule_at(older.version), history.rule_at(newer.version)
    )
    return rendered(
        request,
        "console/policies/versions.html",
        f"Versions of {policy.name}",
        policy=policy,
        steps=steps,
        older=older,
        newer=newer,
        lines=lines,
        may_change=finding.may_change(request, policy.environment.tenant_id),
    )


def _compared(request: HttpRequest, steps: tuple[Step, ...]) -> tuple[Step | None, Step]:
    """The two that `?from=` and `?to=` name; else the latest and the one before it."""
    if not steps:
        raise Http404
    by_number = {str(step.number): step for step in steps}
    newer = by_number.get(request.GET.get("to", ""), steps[0])
    older = by_number.get(request.GET.get("from", ""), by_number.get(str(newer.number - 1)))
    return older, newer


@page("policy_roll_back", "policies/policy/<uuid:policy_id>/versions/<int:number>/roll-back/")
def roll_back(request: HttpRequest, policy_id: UUID, number: int) -> HttpResponse:
    """Asks, with the difference; a POST does it."""
    policy = finding.policy(request, policy_id)
    finding.require_change(request, policy.environment.tenant_id)
    version = policy.versions.filter(version=number).first() if number < 2**31 else None
    if version is None or version.document is None:
        raise Http404
    rule = history.rule_at(version)
    assert rule is not None
    if into_a_draft.is_asked(request):
        stored_name = None if policy.archived_at else policy.name
        put = into_a_draft.put(request, policy.environment, rule, instead_of=stored_name)
        return put or _confirm(request, policy, number, rule, PublishForm(request.POST))
    form = PublishForm(request.POST or None)
    if form.is_valid() and _rolled_back(request, policy, number, note=form.cleaned_data["note"]):
        return redirect(reverse("admin:policy_versions", args=[policy.pk]))
    return _confirm(request, policy, number, rule, form)


def _confirm(
    request: HttpRequest, policy: Policy, number: int, rule: PolicyRule, form: PublishForm
) -> HttpResponse:
    environment = policy.environment
    before = history.rule_at(policy.versions.get(version=policy.version))
    change = PolicyChange(before=before, after=rule, version=policy.version + 1)
    others = policy_rows.in_force(environment.pk, without=policy.pk)
    supposed = policy_rows.with_one(others, rule, ordinal=policy.ordinal, version=change.version)
    lines = differences.compare(before, rule)
    return rendered(
        request,
        "console/policies/roll_back.html",
        f"Put {policy.name} back in force" if policy.archived_at else f"Roll {policy.name} back",
        policy=policy,
        number=number,
        form=form,
        next_number=change.version,
        environment=environment,
        felt=partial(felt, environment, supposed),
        affected=partial(changes.affected, environment, [change], supposed),
        old_title=f"Version {policy.version}, " + ("archived" if policy.archived_at else "in force"),
        new_title=f"Version {policy.version + 1}, as {number} was",
        lines=lines,
        changes_something=not differences.same(before, rule),
    )


def _rolled_back(request: HttpRequest, policy: Policy, number: int, *, note: str) -> bool:
    """If not, the page says why, and shows what would change by now."""
    opened = request.POST.get("opened_version", "")
    try:
        now = history.roll_back(
            policy,
            number,
            opened_version=int(opened) if opened.isdecimal() and len(opened) < VERSION_DIGITS_MAX else 0,
            actor=actor_of(request),
            note=note,
        )
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        policy.refresh_from_db()
        return False
    if str(now.version) == opened:
        messages.info(request, f"Nothing was changed: version {opened}, which is in force, says the same.")
        return True
    says = f"Version {now.version} has the content of version {number}."
    messages.success(request, f"{says} {taking_effect.of(now.environment)}")
    return True
