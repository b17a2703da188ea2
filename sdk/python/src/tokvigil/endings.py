"""How an AI call ended, and what it is charged for that: one rule for every style of call.

A request that may have reached the provider, and whose answer told no figures, is charged what it holds. It is charged
nothing only if it was demonstrably not reached, or refused. The provider's own figures win whenever they came.

| ending      | the provider's figures came | text of it was counted | nothing is known |
|-------------|-----------------------------|------------------------|------------------|
| NOT_SENT    | -                           | -                      | cancelled, 0     |
| NOT_REACHED | -                           | -                      | failed, 0        |
| REFUSED     | -                           | -                      | failed, 0        |
| UNANSWERED  | succeeded, the figures      | partial, the hold      | partial, the hold |
| CUT         | succeeded, the figures      | partial, the count     | partial, the hold |
| FAILED      | partial, the figures        | partial, the count     | partial, the hold |
| COMPLETE    | succeeded, the figures      | succeeded, the count   | partial, the hold |

Text is counted only if it shows every token that is billed: what a model reasons is not in it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tokvigil.checked import TOKENS_MAX
from tokvigil.models import COUNTS, Usage, UsageStatus, contradiction

NO_USAGE = Usage(input_tokens=0, output_tokens=0)

# Statuses after which a request may have been worked on, and billed: those of a gateway that the provider did not
# answer, and 303, which says that the answer is elsewhere. Other redirects say that nothing ran here.
UNANSWERED_STATUSES = frozenset({303, 502, 504, 520, 524})


class Ending(Enum):
    NOT_SENT = "it did not go out"
    NOT_REACHED = "no connection came about"
    REFUSED = "the provider answered with an error"
    UNANSWERED = "it went out, and no answer could be read"
    CUT = "its answer broke off, or nobody read on"
    FAILED = "the provider said an error in the middle of it, and ended it"
    COMPLETE = "its answer was read to the end"


class Charge(NamedTuple):
    status: UsageStatus
    usage: Usage


# Without the provider's figures: the status, and whether what was counted of the answer is charged.
_CHARGES: dict[Ending, tuple[UsageStatus, bool]] = {
    Ending.UNANSWERED: ("partial", False),
    Ending.CUT: ("partial", True),
    Ending.FAILED: ("partial", True),
    Ending.COMPLETE: ("succeeded", True),
}
_UNCHARGED: dict[Ending, UsageStatus] = {
    Ending.NOT_SENT: "cancelled",
    Ending.NOT_REACHED: "failed",
    Ending.REFUSED: "failed",
}


def charge(
    ending: Ending, *, hold: Usage, figures: Usage | None = None, counted: Usage | None = None
) -> Charge:
    """What is reported of a call. `hold` is what it may use at most, `figures` what the provider says that all of it
    used, `counted` what was used as far as its answer tells; None: nobody can tell."""
    if ending in _UNCHARGED:
        return Charge(_UNCHARGED[ending], NO_USAGE)
    if figures is not None and is_possible(figures):
        return Charge("partial" if ending is Ending.FAILED else "succeeded", figures)
    status, counts = _CHARGES[ending]
    if counts and counted is not None and is_possible(counted):
        return Charge(status, counted)
    return Charge("partial", hold)


def is_possible(usage: Usage) -> bool:
    """Whether TokVigil takes such counts: of one call, and parts no larger than their totals."""
    counts = [*(getattr(usage, name) for name in COUNTS), *usage.quantities.values()]
    return min(counts) >= 0 and max(counts) <= TOKENS_MAX and contradiction(usage) is None


def ending_of_status(status: int) -> Ending:
    """Of an answer that is none of success."""
    return Ending.UNANSWERED if status in UNANSWERED_STATUSES else Ending.REFUSED
