"""What boosts make of the terms of a call. Pure.

While boosts run, a limit is the policy's amount and what they add, together no more than can be counted exactly; the
limit of a monitored policy too, and one of 0. Counters and windows stay as they are. Which boosts run changes as one
starts or ends, so terms with boosts are right for a time only: the store refuses a call whose caller is out of it, and
nothing needs to be written when a boost is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from policies.deciding.call_terms import CallTerms
from policies.rules import COUNT_LIMIT_MAX
from usage.amounts import Subjects
from usage.assessment import LimitRef
from usage.boosts import BoostRef, raised
from usage.windows import Span


def boosted(
    terms: CallTerms, boosts: Iterable[BoostRef], subjects: Subjects, now_ms: int
) -> tuple[CallTerms, Span]:
    """The terms with those of the boosts that are for these subjects and run now; and how long that is right."""
    own = [boost for boost in boosts if boost.subject == subjects.name(boost.per)]
    edges = [edge for boost in own for edge in (boost.starts_at_ms, boost.ends_at_ms)]
    right = Span(
        max((edge for edge in edges if edge <= now_ms), default=0),
        min((edge for edge in edges if edge > now_ms), default=None),
    )
    extra: Counter[str] = Counter()
    for boost in own:
        if boost.starts_at_ms <= now_ms < boost.ends_at_ms:
            extra[raised(boost.per, boost.metric, boost.window)] += boost.extra
    if not extra:
        return terms, right
    limits = tuple(_with(limit, extra) for limit in terms.limits)
    return replace(terms, limits=limits, boosted=dict(extra)), right


def _with(limit: LimitRef, extra: Counter[str]) -> LimitRef:
    more = extra[raised(limit.per, limit.metric, limit.window)]
    if not more:
        return limit
    return msgspec.structs.replace(limit, amount=min(limit.amount + more, COUNT_LIMIT_MAX))
