"""What an alert says: one text for e-mail and Slack, and the data of webhooks. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from policies.alerting.conditions import (
    SPIKE_MINUTES,
    CallsReading,
    DriftReading,
    Finding,
    LimitReading,
    SpendReading,
    UnpricedReading,
)
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import format_usd

FEATURES_NAMED_MAX = 5
# Slack cuts longer ones.
TEXT_LENGTH_MAX = 3_000
_ESCAPED = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))

Data = dict[str, object]


@dataclass(frozen=True, slots=True)
class Message:
    """`title` is one line."""

    title: str
    text: str
    data: Data


def of(finding: Finding, *, now: datetime, zone: ZoneInfo) -> Message:
    reading = finding.reading
    match reading:
        case LimitReading():
            said = (
                _threshold(reading, finding.threshold, now, zone)
                if finding.threshold
                else _runs_out(reading, now, zone)
            )
        case CallsReading():
            said = _spike(reading, finding.threshold)
        case SpendReading():
            said = _anomaly(reading, zone)
        case DriftReading():
            said = _drift(reading)
        case UnpricedReading():
            said = _unpriced(reading)
    title, lines, data = said
    return Message(_one_line(title), "\n".join(map(_one_line, lines)), data)


def test() -> Message:
    return Message(
        "A test of this alert endpoint",
        "Somebody pressed “Send a test” in the console. The alerts that it takes arrive like this.",
        {"test": True},
    )


_Said = tuple[str, list[str], Data]


def _threshold(reading: LimitReading, threshold: int, now: datetime, zone: ZoneInfo) -> _Said:
    title = f"{reading.percent} % of {_allowance(reading)}: {_whom(reading)} ({reading.policy})"
    lines = [_stands(reading), _resets(reading, now, zone)]
    if reading.runs_out_at is not None:
        lines.append(_ends(reading, reading.runs_out_at, zone))
    if reading.taken >= reading.limit:
        lines.append(
            "The policy only watches: calls go on."
            if reading.monitored
            else "Calls that need more of it are blocked."
        )
    return title, lines, {**_limit_data(reading), "threshold_percent": threshold}


def _runs_out(reading: LimitReading, now: datetime, zone: ZoneInfo) -> _Said:
    assert reading.runs_out_at is not None
    title = f"{_allowance(reading)} will run out: {_whom(reading)} ({reading.policy})"
    lines = [
        _ends(reading, reading.runs_out_at, zone),
        _stands(reading),
        _resets(reading, now, zone),
    ]
    return title, lines, {**_limit_data(reading), "runs_out_at": _instant(reading.runs_out_at)}


def _ends(reading: LimitReading, at: datetime, zone: ZoneInfo) -> str:
    how = "By the forecast" if reading.by_forecast else "At the pace so far"
    return f"{how} it runs out {_at(at, zone)}."


def _spike(reading: CallsReading, threshold: int) -> _Said:
    minutes = int(SPIKE_MINUTES.total_seconds() // 60)
    title = f"{reading.percent} % of calls were blocked in the last {minutes} minutes"
    lines = [
        f"{wording.count(reading.blocked)} calls were blocked and {wording.count(reading.made)} were made.",
        f"In the 24 hours before, {reading.percent_before} % were blocked.",
    ]
    data: Data = {
        "threshold_percent": threshold,
        "percent": reading.percent,
        "blocked": reading.blocked,
        "made": reading.made,
        "percent_before": reading.percent_before,
        "minutes": minutes,
    }
    return title, lines, data


def _anomaly(reading: SpendReading, zone: ZoneInfo) -> _Said:
    verdict = reading.verdict
    spent, usual = wording.money_rounded(verdict.spent), wording.money_rounded(verdict.usual)
    title = f"{reading.words} spent {spent} in an hour; usual is {usual}"
    lines = [
        f"In the hour from {_at(reading.hour, zone)}, by {wording.counted(reading.calls, 'call')}.",
        f"Usual is the median of {verdict.compared} hours at this time of the day in the last 14 days; "
        f"this one lies {verdict.score} deviations above it.",
    ]
    data: Data = {
        "of": reading.of,
        "name": reading.name,
        "hour": _instant(reading.hour),
        "calls": reading.calls,
        "spent_usd": format_usd(verdict.spent),
        "usual_usd": format_usd(verdict.usual),
        "score": verdict.score,
        "compared_hours": verdict.compared,
    }
    return title, lines, data


def _drift(reading: DriftReading) -> _Said:
    title = f"{wording.counted(reading.counters, 'counter')} of {wording.count(reading.checked)} differ from the ledger"
    lines = [
        "Limits are held by counters; the ledger is what was used. Two checks in a row found the same difference.",
        "`manage.py check_counters` names them, `manage.py rebuild_counters` makes them equal to the ledger.",
    ]
    return title, lines, {"counters": reading.counters, "checked": reading.checked}


def _unpriced(reading: UnpricedReading) -> _Said:
    named = [name or "calls of no feature" for name in reading.features]
    features = ", ".join(named[:FEATURES_NAMED_MAX]) + (
        " and others" if len(named) > FEATURES_NAMED_MAX else ""
    )
    made, blocked = (wording.counted(each, "call") for each in (reading.calls, reading.blocked))
    were = "was" if reading.blocked == 1 else "were"
    calls = [f"{made} went into no sum of costs"] if reading.calls else []
    calls += [f"{blocked} {were} blocked for it"] if reading.blocked else []
    title = f"{reading.model} has no price"
    lines = [
        f"In the last 24 hours {' and '.join(calls)}: {features}.",
        "Give the model a price in the console, under Prices.",
    ]
    data: Data = {
        "model": reading.model,
        "features": [*reading.features],
        "calls": reading.calls,
        "blocked": reading.blocked,
        "first_at": _instant(reading.first_at),
    }
    return title, lines, data


def _limit_data(reading: LimitReading) -> Data:
    return {
        "policy": {"id": reading.policy_id, "name": reading.policy},
        "metric": reading.metric.value,
        "per": reading.per.value,
        **({"models": [*reading.models]} if reading.models else {}),
        "subject": reading.subject_words,
        "used": _amount(reading.metric, reading.used),
        "held": _amount(reading.metric, reading.held),
        "limit": _amount(reading.metric, reading.limit),
        "percent": reading.percent,
        "window": reading.window.value,
        "window_starts_at": _instant(reading.begins_at),
        "resets_at": _instant(reading.resets_at),
        "monitored": reading.monitored,
    }


def _amount(metric: Metric, amount: int) -> int | str:
    """As the API says amounts: a count, or USD as a decimal string."""
    return format_usd(amount) if metric is Metric.COST_USD else amount


def _allowance(reading: LimitReading) -> str:
    kind = (reading.metric, reading.window, reading.per, reading.models)
    return wording.allowance(kind, reading.limit)


def _whom(reading: LimitReading) -> str:
    return "everybody together" if reading.per is Per.ENVIRONMENT else reading.subject_words


def _stands(reading: LimitReading) -> str:
    if reading.metric is Metric.CONCURRENCY:
        return f"{wording.count(reading.held)} of {_allowance(reading)}."
    used, held = (wording.number(reading.metric, each) for each in (reading.used, reading.held))
    more = f", {held} more held by calls that are not reported yet" if reading.held else ""
    return f"{used} of {_allowance(reading)} used{more}."


def _resets(reading: LimitReading, now: datetime, zone: ZoneInfo) -> str:
    if reading.metric is Metric.CONCURRENCY:
        return "It frees up as calls end."
    if reading.resets_at is None:
        return "It never resets."
    left = wording.duration(max(0, int((reading.resets_at - now).total_seconds())))
    return f"It resets {_at(reading.resets_at, zone)}, in {left}."


def _at(at: datetime, zone: ZoneInfo) -> str:
    here = at.astimezone(zone)
    return f"{here:%A} {here.day} {here:%B} {here:%H:%M} ({zone.key})"


def _instant(at: datetime | None) -> str | None:
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _one_line(text: str) -> str:
    """Names are chosen by callers: none may begin a line, or a header, of its own."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def webhook_body(event: str, at: datetime, data: Mapping[str, object]) -> bytes:
    """As Standard Webhooks has it."""
    return json.dumps(
        {"type": event, "timestamp": _instant(at), "data": data}, ensure_ascii=False, separators=(",", ":")
    ).encode()


def slack_body(title: str, text: str, where: str, url: str) -> bytes:
    """`text` alone, which Slack and what is compatible with it show. Nothing in it becomes a link or a mention."""
    lines = [f"*{_escaped(title.replace('*', '∗'))}*", _escaped(text), _escaped(where)]
    if url:
        lines.append(f"<{url}|Open in TokVigil>")
    return json.dumps({"text": "\n".join(lines)[:TEXT_LENGTH_MAX]}, ensure_ascii=False).encode()


def _escaped(text: str) -> str:
    for char, entity in _ESCAPED:
        text = text.replace(char, entity)
    return text
