"""Amounts, windows and limits in people's words: the console, the commands and the explanations write them alike."""

from __future__ import annotations

from decimal import Decimal

from usage.amounts import Amounts, Models, Per
from usage.assessment import LimitKind
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

_NOUNS = {
    Metric.REQUESTS: ("request", "requests"),
    Metric.TOKENS: ("token", "tokens"),
    Metric.INPUT_TOKENS: ("input token", "input tokens"),
    Metric.OUTPUT_TOKENS: ("output token", "output tokens"),
    Metric.CONCURRENCY: ("call at once", "calls at once"),
}
_WINDOWS = {
    Window.MINUTE: "a minute",
    Window.HOUR: "an hour",
    Window.DAY: "a day",
    Window.WEEK: "a week",
    Window.MONTH: "a month",
    Window.TOTAL: "in all",
}
_SUBJECTS = {
    Per.USER: "each user",
    Per.USER_FEATURE: "each user of a feature",
    Per.FEATURE: "each feature",
    Per.PLAN: "each plan",
    Per.ENVIRONMENT: "everybody together",
    Per.RUN: "each run",
}
# Of rows of the ledger.
_STATUSES = {
    "succeeded": "Succeeded",
    "partial": "Partial",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "unsettled": "Not reported",
    "reversal": "Taken back",
    "adjustment": "Re-priced",
}
_CENTS = 2
# More than +1,000 % is said as a factor.
_TIMES_FROM = 11
_NANO_DIGITS = 9


def count(number: int) -> str:
    """`1,412,380`; below zero with a true minus."""
    return f"{number:,}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """`1 change`, `3 changes`"""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def rows_that_are_no_calls(rows: int, calls: int) -> str:
    """`29 rows more count as no call: …`, of rows of the ledger; empty where each is one."""
    more = rows - calls
    if more <= 0:
        return ""
    return (
        f"{counted(more, 'row')} more {'counts' if more == 1 else 'count'} as no call: failed or cancelled before"
        " any token, an estimate that a late report took the place of, or a call that was re-priced"
    )


def money(nano_usd: int, *, places: int = _CENTS) -> str:
    """`$5.00`. A sum that the places would round is written in full: `$0.000125`."""
    usd = Decimal(nano_usd).scaleb(-_NANO_DIGITS)
    if usd == round(usd, places):
        return money_rounded(nano_usd, places=places)
    text = f"{abs(usd):,.{_NANO_DIGITS}f}".rstrip("0")
    return f"{'−' if usd < 0 else ''}${text}"


def money_rounded(nano_usd: int, *, places: int = _CENTS) -> str:
    """For a column of sums, where each has the same places: `$5.00`; what these cannot say is `<$0.01`, not nothing."""
    usd = Decimal(nano_usd).scaleb(-_NANO_DIGITS)
    least = Decimal(1).scaleb(-places)
    if 0 < usd < least / 2:
        return f"<${least}"
    return f"{'−' if usd < 0 else ''}${abs(usd):,.{places}f}"


def share(part: int, whole: int) -> str:
    """Of a sum, rounded: `82 %`; `<1 %` of what is not nothing, `>99 %` of what is not all."""
    if whole <= 0:
        return "0 %"
    percent = (part * 200 + whole) // (2 * whole)
    if percent == 0 and part > 0:
        return "<1 %"
    return ">99 %" if percent == 100 and part < whole else f"{percent} %"


def share_of_limit(part: int, whole: int) -> str:
    """Cut, as its bar is, so that with something left it never is `100 %`; also of work to be done."""
    percent = part * 100 // whole if whole > 0 else 0
    return "<1 %" if part > 0 and percent == 0 else f"{percent} %"


def change(now: int, before: int) -> str | None:
    """`+15.9 %`, with a true minus; of more than ten times as much `× 12`; None: there is nothing to compare with."""
    if before <= 0:
        return None
    if now > _TIMES_FROM * before:
        return f"× {count(round(now / before))}"
    percent = f"{(now - before) * 100 / before:+,.1f} %".replace("-", "−")
    return "0.0 %" if percent in ("+0.0 %", "−0.0 %") else percent


def number(metric: Metric, amount: int) -> str:
    """Without its noun, for a column: `1,412,380`, `$5.00`. Costs are in nano-USD."""
    return money_rounded(amount) if metric is Metric.COST_USD else count(amount)


def amount(metric: Metric, value: int) -> str:
    """`50 requests`, `1 call at once`, `$5.00`. Costs are in nano-USD."""
    if metric is Metric.COST_USD:
        return money(value)
    one, many = _NOUNS[metric]
    return f"{count(value)} {one if value == 1 else many}"


def call(amounts: Amounts, cost_nano: int | None) -> str:
    """What one call takes: `374 tokens in, 44 out, $0.02`. `cost_nano`: None without a price."""
    return f"{tokens(amounts)}, {'without a price' if cost_nano is None else money(cost_nano)}"


def tokens(amounts: Amounts) -> str:
    """`374 tokens in, 44 out`"""
    return f"{counted(amounts.input_tokens, 'token')} in, {count(amounts.output_tokens)} out"


def window(metric: Metric, kind: Window) -> str:
    """`a day`; empty for calls in flight, which have none."""
    return "" if metric is Metric.CONCURRENCY else _WINDOWS[kind]


def status(name: str) -> str:
    """What became of a call that was allowed: `Succeeded`, `Not reported`."""
    return _STATUSES[name]


def subject(per: Per) -> str:
    """Whose calls are counted together: `each user`."""
    return _SUBJECTS[per]


_UNITS = (("day", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def duration(seconds: int) -> str:
    """In its two largest units: `9 h 28 min`, `3 days 2 h`."""
    parts = []
    for name, length in _UNITS:
        number, seconds = divmod(seconds, length)
        if number:
            parts.append(f"{number} {name}{'s' if name == 'day' and number > 1 else ''}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def limit(kind: LimitKind, value: Decimal | int) -> str:
    """`50 requests a day, each user`, of an amount as a policy has it."""
    metric, *_ = kind
    return limit_of(kind, int(value * NANO) if metric is Metric.COST_USD else int(value))


def limit_of(kind: LimitKind, value: int) -> str:
    """The same of an amount as it is counted, costs in nano-USD."""
    _, _, per, _ = kind
    return f"{allowance(kind, value)}, {subject(per)}"


def allowance(kind: LimitKind, value: int) -> str:
    """`50 requests a day`, `$5.00 a month with gpt-5*`, without whose they are."""
    metric, window_kind, _, models = kind
    return f"{amount(metric, value)} {window(metric, window_kind)}".rstrip() + with_models(models)


def limit_name(kind: LimitKind) -> str:
    """`requests a day, each user`: what is limited, without how much of it."""
    metric, window_kind, per, models = kind
    noun = "spend" if metric is Metric.COST_USD else _NOUNS[metric][1]
    return f"{noun} {window(metric, window_kind)}".rstrip() + f"{with_models(models)}, {subject(per)}"


def with_models(patterns: Models) -> str:
    """` with gpt-5* and claude-opus-*`, of a limit that counts these models alone; else nothing."""
    if not patterns:
        return ""
    *others, last = patterns
    return f" with {', '.join(others)} and {last}" if others else f" with {last}"
