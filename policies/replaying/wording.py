"""A report of a replay in lines of text, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from policies.replaying.report import SimulationReport
from usage import wording

SHOWN = 5


def lines(report: SimulationReport) -> Iterator[str]:
    calls, users, cost = report.calls, report.users, report.cost_usd
    period = report.period
    yield f"{period.from_.isoformat()} to {period.to.isoformat()} ({period.timezone})"
    if not calls.replayed:
        yield "No call was made or blocked in this period."
        return
    yield f"{wording.counted(calls.replayed, 'call')} replayed"
    yield f"  {wording.count(calls.unchanged)} unchanged" + (
        f", {wording.count(report.other_reason)} of them blocked for another reason"
        if report.other_reason
        else ""
    )
    if report.cut_short:
        yield f"  {wording.count(report.cut_short)} of the unchanged left less output than they produced"
    yield (
        f"  {wording.count(calls.newly_blocked)} newly blocked: "
        f"{wording.counted(users.newly_blocked, 'user')}, ${cost.newly_blocked} of ${cost.made}"
    )
    if cost.unpriced:
        yield f"  {wording.counted(cost.unpriced, 'call')} without a price of all or part: that is in no sum"
    yield (
        f"  {wording.count(calls.newly_allowed)} newly allowed: "
        f"{wording.counted(users.newly_allowed, 'user')}, ${cost.newly_allowed_at_most} at most"
    )
    yield f"  {wording.count(calls.undecidable)} undecidable" + "".join(
        f"; {wording.count(count)}: {why}" for why, count in report.undecidable.items()
    )
    for reason in report.reasons[:SHOWN]:
        yield f"  {wording.count(reason.calls)} x {reason.reason_code} by {reason.policy or 'no policy'}"
    for hit in report.first_hits[:SHOWN]:
        yield f"  {hit.user_id} first at {hit.at.isoformat()}: {hit.message}"
    check = report.self_check
    if check is not None:
        yield (
            f"Check: the policies that were in force, replayed, decide {wording.count(check.same)} of "
            f"{wording.counted(check.compared, 'call')} as they were decided"
        )
        for why, count in check.why.items():
            yield f"  {wording.count(count)} otherwise: {why}"
    for assumption in report.assumptions:
        yield f"- {assumption}"
