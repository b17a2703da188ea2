"""The page of a policy: what it says, how full its limits are, and how it stands to others."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from policies import policy_rows
from policies.admin.policy_list import MODES
from policies.changing import publishing
from policies.changing.known_names import KnownNames, known_names
from policies.describing import wording
from policies.describing.overlaps import Overlap, overlaps
from policies.describing.warnings import Known, PolicyWarning, warnings
from policies.models import Policy
from policies.resolution import StoredPolicy
from policies.rules import Mode, PolicyRule
from policies.standing import standing_wording
from policies.standing.standings import Standing, SubjectStanding, standings
from tenants.console.access import actor_of
from tenants.console.pages import rendered
from tenants.console.parts import Bar
from usage import wording as usage_wording
from usage.amounts import Per

# Of a limit; the rest is near nothing.
SUBJECTS_SHOWN_MAX = 10
OVERLAPS_SHOWN_MAX = 20
VERSIONS_SHOWN_MAX = 5

# What each mode does, for who is about to choose it.
MODE_ACTIONS = {
    Mode.ENFORCE: ("Enforce", "Calls beyond its limits are blocked from then on."),
    Mode.MONITOR: ("Monitor", "It blocks nothing from then on, and says what it would have blocked."),
    Mode.OFF: ("Turn off", "It applies to no call from then on, and nothing is counted for it alone."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRow:
    name: str
    bar: Bar | None
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    words: str
    standing: Standing
    says: str
    resets: str
    crowd: str
    # Those nearest to the limit, where it has several.
    subjects: tuple[SubjectRow, ...]
    warnings: tuple[str, ...]


def show(request: HttpRequest, policy: Policy, *, may_change: bool) -> TemplateResponse:
    rule, zone = policy_rows.rule_of(policy), policy.environment.tenant.timezone
    others = [] if policy.archived_at else policy_rows.in_force(policy.environment_id, without=policy.pk)
    concerns = [] if policy.archived_at else concerns_of(policy, rule, others)
    stands = [] if policy.archived_at else standings(policy.environment, {policy.pk})
    mode_kind, mode_word = MODES[Mode(policy.mode)]
    return rendered(
        request,
        "console/policies/policy.html",
        policy.name,
        opts=policy._meta,
        original=policy,
        wording=wording.describe(rule, zone),
        scope=wording.scope(rule.scope, rule.kind),
        mode_kind=mode_kind,
        mode_word=mode_word,
        limits=_limit_rows(rule, stands, concerns),
        warnings=[each.text for each in concerns if each.limit is None],
        overlaps=_overlaps(policy, rule, others),
        versions=policy.versions.select_related("draft")[:VERSIONS_SHOWN_MAX],
        mode_actions=[(mode, words) for mode, (words, _) in MODE_ACTIONS.items() if mode != policy.mode],
        may_change=may_change,
    )


def concerns_of(policy: Policy, rule: PolicyRule, others: list[StoredPolicy]) -> list[PolicyWarning]:
    return warnings(rule, others, known(known_names(policy.environment)), ordinal=policy.ordinal)


def known(names: KnownNames) -> Known:
    """Without the ledger it is not known what nobody calls."""
    if not names.seen:
        return Known()
    return Known(models=frozenset(names.models), plans=names.plans_used)


def _limit_rows(rule: PolicyRule, stands: list[Standing], concerns: list[PolicyWarning]) -> list[LimitRow]:
    by_limit = {standing.limit: standing for standing in stands}
    return [
        LimitRow(
            words=usage_wording.limit_of(limit.kind, limit.amount),
            standing=standing,
            says=standing_wording.says(standing),
            resets=standing_wording.resets(limit.metric, standing.resets_at, timezone.now()),
            crowd=standing_wording.crowd(standing),
            subjects=_subject_rows(standing),
            warnings=tuple(each.text for each in concerns if each.limit == number),
        )
        for number, limit in enumerate(rule.limits)
        if (standing := by_limit.get(limit)) is not None
    ]


def _subject_rows(standing: Standing) -> tuple[SubjectRow, ...]:
    if standing.limit.per is Per.ENVIRONMENT or len(standing.subjects) < 2:
        return ()
    return tuple(_subject_row(standing, each) for each in standing.subjects[:SUBJECTS_SHOWN_MAX])


def _subject_row(standing: Standing, of: SubjectStanding) -> SubjectRow:
    return SubjectRow(
        name=standing_wording.subject(of.subject, standing.limit.per),
        bar=of.bar(standing.limit, watched=standing.watched),
        says=standing_wording.taken(standing, of),
    )


def _overlaps(policy: Policy, rule: PolicyRule, others: list[StoredPolicy]) -> list[Overlap]:
    return overlaps(policy_rows.stored(policy, rule), others)[:OVERLAPS_SHOWN_MAX]


def change_mode(request: HttpRequest, policy: Policy) -> HttpResponse:
    """Asks, and changes the mode when the answer is yes."""
    if policy.archived_at is not None:
        raise PermissionDenied
    asked = request.POST.get("mode") or request.GET.get("mode") or ""
    if asked not in set(Mode):
        raise Http404(f"There is no mode {asked!r}.")
    mode = Mode(asked)
    action, consequence = MODE_ACTIONS[mode]
    url = reverse("admin:policies_policy_change", args=[policy.pk])
    if request.method != "POST":
        return rendered(
            request,
            "console/policies/mode.html",
            f"{action}: {policy.name}?",
            policy=policy,
            mode=mode,
            action=action,
            consequence=consequence,
            url=url,
        )
    row = publishing.set_mode(policy, mode, actor=actor_of(request))
    _, word = MODES[mode]
    said = f"{row.name} is {'off' if mode is Mode.OFF else word.lower()} now, as version {row.version}."
    admin.site.get_model_admin(Policy).message_user(request, said, messages.SUCCESS)
    return HttpResponseRedirect(url)
