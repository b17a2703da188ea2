"""Who holds anything of a limit: the subjects of calls in flight that the limit's policy applies to. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

from policies.resolution import PolicyIndex
from policies.rules import LimitRule
from usage.amounts import Subjects
from usage.counting.in_flight import CallInFlight
from usage.ledger import sums
from usage.prices.model_groups import ModelGroups

Holders = dict[LimitRule, list[Subjects]]


def by_policy(
    calls: Iterable[CallInFlight],
    index: PolicyIndex,
    limits: Mapping[str, Collection[LimitRule]],
    groups: ModelGroups,
) -> dict[str, Holders]:
    """Of each policy, by its id, and each limit of it who holds something, those that hold most first."""
    held: dict[str, dict[LimitRule, Counter[Subjects]]] = defaultdict(lambda: defaultdict(Counter))
    for call in calls:
        of = call.evaluated.subjects
        for policy in index.resolve(user=of.user_id, feature=of.feature, plan=of.plan).policies:
            for limit in limits.get(policy.ref.id, ()):
                if of.name(limit.per) and groups.counts(limit.models, call.evaluated.model):
                    held[policy.ref.id][limit][_counted(of, limit)] += call.holds.of(limit.metric)
    return {
        policy_id: {limit: [subject for subject, _ in of.most_common()] for limit, of in by_limit.items()}
        for policy_id, by_limit in held.items()
    }


def _counted(of: Subjects, limit: LimitRule) -> Subjects:
    """Whose counter takes the call."""
    return Subjects(**{"user_id": "", **{name: getattr(of, name) for name in sums.COLUMNS[limit.per]}})
