"""What a call takes, and of whom: metrics, amounts, and the subjects that counters belong to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from usage.windows import Window

# 96 bits: no two subjects of an environment meet by chance, and no user id stands in a key of the store.
SUBJECT_DIGEST_BYTES = 12


class Metric(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    COST_USD = "cost_usd"
    CONCURRENCY = "concurrency"


class Per(StrEnum):
    """The counter's subject."""

    USER = "user"
    USER_FEATURE = "user_feature"
    FEATURE = "feature"
    PLAN = "plan"
    ENVIRONMENT = "environment"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Amounts:
    """Tokens, and cost in nano-USD. All integers; negative only in a reversal."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0

    def of(self, metric: Metric) -> int:
        match metric:
            case Metric.REQUESTS | Metric.CONCURRENCY:
                return self.requests
            case Metric.TOKENS:
                return self.input_tokens + self.output_tokens
            case Metric.INPUT_TOKENS:
                return self.input_tokens
            case Metric.OUTPUT_TOKENS:
                return self.output_tokens
            case Metric.COST_USD:
                return self.cost_nano


@dataclass(frozen=True, slots=True)
class Movement:
    """What one transaction of the ledger charged for a request. A late report adds another to that of its estimate."""

    xid: int
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Pair:
    """What is counted: a kind of subject in a kind of window. An environment tracks the pairs that its limits name."""

    per: Per
    window: Window

    def __str__(self) -> str:
        return f"{self.per}:{self.window}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
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


def digest(subject: str) -> str:
    return blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=SUBJECT_DIGEST_BYTES).hexdigest()
