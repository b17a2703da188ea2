"""The first line of the page of health: whether everything is counted, in one sentence. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tenants.console.parts import State
from usage import wording
from usage.analytics.counter_checks import Checked


@dataclass(frozen=True, slots=True)
class Verdict:
    state: State
    word: str
    says: str


def verdict(checked: Checked | None, *, store_answers: bool, ledger_answers: bool, unpriced: int) -> Verdict:
    """`checked`: the last comparison; None: there is none. `unpriced`: models without a price that were used lately."""
    silent = [
        name
        for name, answers in (("counter store", store_answers), ("ledger", ledger_answers))
        if not answers
    ]
    if silent:
        who = " and the ".join(silent)
        says = f"The {who} did not answer in time, so it is not known whether everything is counted."
        return Verdict(State.FULL, "Not known", says)
    if checked is None:
        says = (
            "Every reported call is in the ledger and its sums. Whether the counters hold the same was not looked at"
            " yet: compare them."
        )
        return Verdict(State.QUIET, "Not compared", says)
    if checked.differing:
        of = wording.counted(checked.compared, "counter")
        says = (
            "Every reported call is in the ledger and its sums, but"
            f" {wording.count(checked.differing)} of {of} held something else when they were compared last."
        )
        return Verdict(State.NEAR, "Differs", says)
    counted = f"Everything is counted: the ledger has every reported call, and {_counters(checked)}."
    if unpriced:
        models = wording.counted(unpriced, "model")
        says = (
            f"{counted} But {models} without a price {'is' if unpriced == 1 else 'are'} in no sum of money."
        )
        return Verdict(State.NEAR, "Counted, not priced", says)
    return Verdict(State.ALLOWED, "All counted", counted)


def _counters(checked: Checked) -> str:
    if checked.compared and checked.cold:
        return (
            f"the {wording.counted(checked.compared, 'counter')} that could be compared held the same;"
            f" {wording.count(checked.cold)} more are rebuilt from it before their next use"
        )
    if checked.compared:
        return "the counters held the same when they were compared last"
    return "each counter is rebuilt from it before its next use"
