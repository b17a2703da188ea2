"""Beside a call of the ledger: which policies applied to it, and how the limits that count it stand now.

The ledger keeps the override that decided. Which guardrails applied besides is worked out from the versions that were
in force at the time of the call. How limits stood then is not kept, so they are shown as they stand now, those of the
policies that would bind such a call now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils import timezone

from policies import policy_rows
from policies.describing.considering import Considered, Part, considered
from policies.files import documents
from policies.models import Policy
from policies.resolution import PolicyIndex
from policies.standing import binding
from policies.standing.binding import Binding, BindingLimit
from policies.standing.binding_rows import LimitRow
from usage import wording
from usage.amounts import Per, Subjects
from usage.instants import to_ms
from usage.ledger.models import UsageEvent
from usage.metrics import Metric
from usage.windows import Window, span

_APPLIED = (Part.DECIDES, Part.ALWAYS, Part.MONITORS)


@dataclass(frozen=True, slots=True)
class Applied:
    """A policy that applied to the call. `now`: what became of it since; empty where it binds such a call as it did."""

    policy: Considered
    now: str

    @property
    def version_url(self) -> str:
        return version_url(self.policy.id, self.policy.version)


@dataclass(frozen=True, slots=True)
class Counting:
    """A limit as it stands now. `took`: what the call took of it; `since`: how its policy differs from that time."""

    row: LimitRow
    took: str
    since: str


@dataclass(frozen=True, slots=True)
class Apart:
    """A limit that binds such a call now and does not count this one, and why."""

    title: str
    why: str


@dataclass(frozen=True, slots=True)
class OfCall:
    """`counting` is None where the counters cannot be read.

    `differs`: how the policy that was recorded disagrees with those worked out; empty if it does not.
    """

    applied: tuple[Applied, ...]
    differs: str
    plan_now: str
    counting: tuple[Counting, ...] | None
    apart: tuple[Apart, ...]


def of_call(event: UsageEvent, zone: ZoneInfo) -> OfCall:
    """The policies cost one query; the limits are asked for as an evaluate would."""
    policies = policy_rows.in_force_before(event.environment_id, event.charged_at)
    parts = considered(
        policies, PolicyIndex(policies), user=event.user_id, feature=event.feature, plan=event.plan
    )
    applied = [each for each in parts if each.part in _APPLIED]
    subjects = Subjects(user_id=event.user_id, feature=event.feature, plan=event.plan, run_id=event.run_id)
    binds = binding.of_call(event.environment_id, subjects, event.model)
    then = {each.id: each.version for each in applied}
    recorded = {} if event.policy_version is None else {str(event.policy_id): event.policy_version}
    limits = None if binds is None else binds.limits
    if limits:
        limits = binding.with_days(limits, event.environment_id, zone)
    return OfCall(
        applied=tuple(Applied(each, _became(each, binds)) for each in applied),
        differs=_differs(event, then),
        plan_now="" if binds is None or binds.plan == event.plan else binds.plan,
        counting=None if limits is None else tuple(_counting(event, zone, limits, binds, then | recorded)),
        apart=tuple(_apart(event, zone, limits or (), binds)),
    )


def policy_name(event: UsageEvent) -> str:
    """Of the policy that decided, as the version that the row names has it, else as it is now. Empty: not known."""
    if event.policy_id is None or event.policy_version is None:
        return ""
    policy = Policy.objects.filter(environment_id=event.environment_id, pk=event.policy_id).first()
    if policy is None:
        return ""
    then = policy.versions.filter(version=event.policy_version).first()
    if then is None or then.document is None:
        return policy.name
    return documents.rule_of(then.document).name


def version_url(policy_id: str, version: int) -> str:
    """What the policy said in this version."""
    return f"{reverse('admin:policy_versions', args=[policy_id])}?to={version}#compared"


def _became(applied: Considered, binds: Binding | None) -> str:
    if binds is None:
        return ""
    now = {policy.id: policy.version for policy in binds.policies}.get(applied.id)
    if now is None:
        return "would not apply now"
    return "" if now == applied.version else f"version {now} now"


def _differs(event: UsageEvent, then: Mapping[str, int]) -> str:
    if event.policy_id is None or event.policy_version is None:
        return ""
    found = then.get(str(event.policy_id))
    if found == event.policy_version:
        return ""
    name = policy_name(event) or "the policy that it names"
    said = f"The call was allowed by version {event.policy_version} of {name}"
    if found is None:
        return (
            f"{said}, which is not among those worked out: no version of it is kept as in force at that time."
        )
    return f"{said}; version {found} had just been published and did not bind it yet."


def _counting(
    event: UsageEvent,
    zone: ZoneInfo,
    limits: Sequence[BindingLimit],
    binds: Binding | None,
    then: Mapping[str, int],
) -> list[Counting]:
    # All are of the call's feature, which is said once on the page.
    return [
        Counting(LimitRow(replace(found, feature=""), zone), _took(event, found), _since(found, then))
        for found in limits
        if not _why_apart(event, zone, found, binds)
    ]


def _apart(
    event: UsageEvent, zone: ZoneInfo, limits: Sequence[BindingLimit], binds: Binding | None
) -> list[Apart]:
    return [
        Apart(LimitRow(found, zone).title, why)
        for found in limits
        if (why := _why_apart(event, zone, found, binds))
    ]


def _why_apart(event: UsageEvent, zone: ZoneInfo, found: BindingLimit, binds: Binding | None) -> str:
    """Why the limit does not count the call; empty: it does."""
    limit = found.limit
    if limit.metric is Metric.CONCURRENCY:
        return "the call has ended"
    if limit.per is Per.PLAN and binds is not None and binds.plan != event.plan:
        return "it counts calls of another plan"
    if limit.window is not Window.TOTAL:
        begun_ms = span(limit.window, to_ms(timezone.now()), zone).start
        if to_ms(event.charged_at) < begun_ms:
            return f"the {limit.window.value} of the call is over"
    return ""


def _took(event: UsageEvent, found: BindingLimit) -> str:
    metric = found.limit.metric
    if metric is Metric.COST_USD and event.cost_nano is None:
        return "nothing: no price"
    return wording.amount(metric, event.amounts.of(metric))


def _since(found: BindingLimit, then: Mapping[str, int]) -> str:
    before = then.get(found.policy.id)
    if before is None:
        return "did not apply to the call"
    return "" if before == found.policy.version else f"version {before} then, {found.policy.version} now"
