"""What a call takes, and of whom: amounts, and the subjects that counters belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated

import msgspec

from usage.metrics import COLUMNS, COUNTS, METRICS, Metric
from usage.windows import Window

# 96 bits: no two subjects of an environment meet by chance, and no user id stands in a key of the store.
DIGEST_BYTES = 12
SUBJECTS_REMEMBERED_MAX = 50_000
# The most that one call can take of a kind; a cost of more could leave its range.
TOKENS_MAX = 100_000_000

# Patterns of the models that a limit counts; none: it counts all.
Models = tuple[str, ...]
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


class Per(StrEnum):
    """The counter's subject."""

    USER = "user"
    USER_FEATURE = "user_feature"
    FEATURE = "feature"
    PLAN = "plan"
    ENVIRONMENT = "environment"
    RUN = "run"


def _sum_of(columns: tuple[str, ...]) -> Callable[[Amounts], int]:
    return lambda amounts: sum(getattr(amounts, column) for column in columns)


# The fields of answers that list the counted amounts, each a whole number; the cost they say in USD. Such a class takes
# them in by `__annotations__.update(COUNT_FIELDS)`, at the place where they would stand if they were written out.
COUNT_FIELDS = dict.fromkeys(COUNTS, int)


class Amounts(msgspec.Struct, frozen=True):
    """Tokens, and cost in nano-USD: a field for each row of `metrics.COUNTED`.

    Integers; below 0 only in reversals and adjustments.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0

    def __iter__(self) -> Iterator[int]:
        """In the order of `metrics.COUNTED`."""
        return iter(_fields(self))

    def of(self, metric: Metric) -> int:
        """What a limit on this metric counts of it. A call counts as one in flight."""
        return _SUMS[metric](self)

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(*map(int.__add__, self, other))

    @property
    def counts(self) -> dict[str, int]:
        """All but the cost, by name: the values of COUNT_FIELDS."""
        return dict(zip(COUNTS, counts_of(self), strict=True))


_fields: Callable[[Amounts], tuple[int, ...]] = attrgetter(*COLUMNS)
# All but the cost, in the order of COUNTS.
counts_of: Callable[[Amounts], tuple[int, ...]] = attrgetter(*COUNTS)
_SUMS: dict[Metric, Callable[[Amounts], int]] = {
    row.metric: attrgetter(*row.columns) if len(row.columns) == 1 else _sum_of(row.columns)
    for row in METRICS.values()
}


class Movement(msgspec.Struct, frozen=True):
    """What one transaction of the ledger charged for a request and model. A late report adds others to its estimate."""

    xid: int
    amounts: Amounts
    model: str = ""


class Pair(msgspec.Struct, frozen=True, cache_hash=True):
    """What is counted: a kind of subject in a kind of window, calls to these models only if it names any.

    An environment tracks the pairs that its limits name.
    """

    per: Per
    window: Window
    models: Models = ()


class Subjects(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a call belongs to. `""` means it belongs to none of that kind, and no counter of that kind takes it."""

    user_id: str
    feature: str = ""
    plan: str = ""
    run_id: str = ""

    def name(self, per: Per) -> str | None:
        """The subject of this kind, or None if the call has none."""
        match per:
            case Per.USER:
                return self.user_id
            case Per.USER_FEATURE:
                # The length keeps ("a", "bc") and ("ab", "c") apart.
                return f"{len(self.user_id)}:{self.user_id}{self.feature}" if self.feature else None
            case Per.FEATURE:
                return self.feature or None
            case Per.PLAN:
                return self.plan or None
            case Per.RUN:
                return self.run_id or None
            case Per.ENVIRONMENT:
                return ""


def digest(name: str) -> str:
    """In place of a name whose form and length nobody bounds, or that nobody shall read, such as an end user's."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


@lru_cache(maxsize=SUBJECTS_REMEMBERED_MAX)
def subject_digest(subject: str) -> str:
    """`digest`, remembered: the same end users, features and plans come again and again."""
    return digest(subject)
