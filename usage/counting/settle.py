"""Turn holds into what the ledger recorded, each exactly once. Runs after the ledger's transaction committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenants.revisions import environment_key
from usage.amounts import Amounts, Movement
from usage.counting.keys import open_keys, reservation_key
from usage.counting.reserve import Stale
from usage.counting.store import Argument, store
from usage.counting.tracked import Counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    environment_id: int
    revision: int
    request_id: str
    counters: tuple[Counter, ...]
    movements: tuple[Movement, ...]


@dataclass(frozen=True, slots=True)
class CounterState:
    used: Amounts
    held: Amounts


@dataclass(frozen=True, slots=True)
class Settled:
    charged: bool
    states: tuple[CounterState, ...]


def settle_many(settlements: Sequence[Settlement]) -> list[Settled | Stale]:
    """Charge what the ledger committed and free the holds; one round trip for all, each for itself."""
    answers = store.run_many([_settle_call(settlement) for settlement in settlements])
    return [_read_settled(answer) for answer in answers]


def _settle_call(settlement: Settlement) -> tuple[str, list[str], list[Argument]]:
    environment_id = settlement.environment_id
    keys = [
        environment_key(environment_id),
        reservation_key(environment_id, settlement.request_id),
        *open_keys(environment_id),
        *(counter.key for counter in settlement.counters),
    ]
    arguments: list[Argument] = [settlement.revision, len(settlement.counters), len(settlement.movements)]
    for counter in settlement.counters:
        arguments += counter.slot.arguments
    for movement in settlement.movements:
        amounts = movement.amounts
        arguments += (
            movement.xid,
            amounts.requests,
            amounts.input_tokens,
            amounts.output_tokens,
            amounts.cost_nano,
        )
    return "settle", keys, arguments


def _read_settled(answer: list[bytes | int]) -> Settled | Stale:
    if answer[0] == b"STALE":
        return Stale()
    numbers = [int(number) for number in answer[2:]]
    states = tuple(
        CounterState(Amounts(*numbers[first : first + 4]), Amounts(*numbers[first + 4 : first + 8]))
        for first in range(0, len(numbers), 8)
    )
    return Settled(answer[1] == 1, states)
