"""Block trends: blocked calls over a period, by reasons over time, by who and what is hit most, and their share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.core.exceptions import BadRequest
from django.db import DatabaseError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone

from policies.blocked import coming_back, counts
from policies.blocked.coming_back import Back
from policies.blocked.counts import Question
from policies.blocked.decision_listing import store_newest
from policies.describing import reason_words
from policies.models import Policy
from tenants import exporting
from tenants.console import charts, environments, export_links
from tenants.console.charts import Columns
from tenants.console.pages import page, rendered
from tenants.exporting import Format
from tenants.models import Environment
from usage import wording
from usage.admin.asked import Asked
from usage.analytics import period_words, rollup_lag
from usage.analytics.shown_period import Days
from usage.instants import from_ms
from usage.ledger.leading import at_most
from usage.ledger.periods import Period
from usage.windows import Window

logger = logging.getLogger("tokvigil.decisions")

NAMES_SHOWN = 10
# Of each statement.
COUNT_MS_MAX = 3_000
# Shorter periods are shown by hours.
HOURLY_UNTIL = timedelta(hours=51)
OTHERS = "Other reasons"
# A group of figures, the column that it names, and the filter of the list of blocked calls.
GROUPS = {"users": "user_id", "features": "feature", "models": "model", "policies": "policy", "plans": "plan"}
_FILTERS = {
    "user_id": "user", "feature": "feature", "plan": "plan", "model": "model", "run_id": "run",
    "reason_code": "reason", "policy": "policy",
}  # fmt: skip
_NONE = {"feature": "no feature", "plan": "no plan", "policy": "no policy"}
TITLE = "Block trends"
TABLES = ("over_time", "reasons", *GROUPS)


class BlockedAsked(Asked):
    reason = forms.ChoiceField(required=False)
    policy = forms.ChoiceField(required=False)

    aside = ("table", "format")
    tab = "blocked"
    own_filters = ("reason", "policy")

    def __init__(self, request: HttpRequest, environment: Environment, now: datetime) -> None:
        super().__init__(request, environment, now)
        self.fields["reason"].choices = [("", "Any"), *reason_words.of_blocks()]  # type: ignore[attr-defined]
        self.policies = {
            str(pk): name
            for pk, name in Policy.objects.filter(environment=environment)
            .order_by("name")
            .values_list("pk", "name")
        }
        self.fields["policy"].choices = [("", "Any"), *self.policies.items()]  # type: ignore[attr-defined]

    def question(self, days: Days) -> Question:
        own = {"reason_code": self.cleaned_data["reason"], "policy": self.cleaned_data["policy"]}
        filters = {**self.filters, **{name: value for name, value in own.items() if value}}
        return Question(self.environment.pk, days.range, filters)


@dataclass(frozen=True, slots=True)
class Row:
    """A name and how many calls of it were blocked. Without a `url` their list cannot be asked for them."""

    name: str
    calls: str
    share: str
    url: str | None
    page_url: str | None = None
    # Of a user: what blocked them most, and whether a call of theirs was allowed after a block.
    most_by: str = ""
    back: str = ""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A day or an hour, and how many calls of each reason shown; 0 is left empty."""

    label: str
    at: datetime
    calls: str
    url: str | None
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """Reasons over time, for the chart and its table: the most frequent, and all others as one."""

    chart: Columns
    most: str
    buckets: tuple[Bucket, ...]
    hourly: bool


@page("blocked", "blocked/")
def blocked(request: HttpRequest) -> HttpResponseBase:
    environment = environments.shown(request)
    if environment is None:
        return rendered(request, "console/blocked.html", TITLE, environment=None)
    asked = BlockedAsked(request, environment, timezone.now())
    store_newest(environment.pk)
    if "table" in request.GET:
        return _export(request, asked)
    context: dict[str, Any] = {}
    if asked.shown is not None:
        try:
            with at_most(COUNT_MS_MAX):
                context = _figures(asked)
        except DatabaseError as error:
            logger.warning("blocked calls of %s are not shown: %s", environment, error)
            context = {"too_slow": True}
    return rendered(
        request,
        "console/blocked.html",
        TITLE,
        environment=environment,
        asked=asked,
        list_url=_list_url(asked),
        **context,
    )


def _figures(asked: BlockedAsked) -> dict[str, Any]:
    period = asked.shown
    assert period is not None
    question = asked.question(period.days)
    reasons = counts.most(question, "reason_code", len(reason_words.of_blocks()) + 1)
    count = sum(calls for _, calls in reasons)
    before = counts.count(asked.question(period.before))
    share = counts.share(question, count)
    back = coming_back.newest(question, asked.zone)
    return {
        "period": period,
        "says": period_words.shown(period),
        "before_says": period_words.compared(period, asked.zone),
        "filtered": bool(question.filters),
        "count": count,
        "count_says": wording.count(count),
        "before": wording.count(before),
        "share": wording.share(count, count + share.recorded),
        "recorded": wording.count(share.recorded),
        "hit": wording.count(counts.names(question, "user_id")),
        "newest": (newest := counts.look_up(question)),
        "looked_up": wording.count(newest.looked_up),
        "passed": f"{wording.count(newest.passed)} of {wording.count(newest.looked_up)}",
        "back": wording.count(sum(each.within_24_h for each in back)),
        "back_of": wording.count(len(back)) if back else "",
        "back_same_day": wording.count(sum(each.same_day for each in back)),
        "cost": wording.money_rounded(newest.cost_nano) if newest.priced else "not known",
        "unpriced": wording.count(newest.looked_up - newest.priced),
        "kept_days": settings.BLOCKED_DECISIONS_KEPT_DAYS,
        "reasons": [_row(asked, "reason_code", name, calls, count) for name, calls in reasons],
        "course": _course(asked, question, [name for name, _ in reasons]),
        "groups": [
            (
                title,
                _hit_most(asked, question, column, count),
                _exports(asked, title),
            )
            for title, column in GROUPS.items()
        ],
        "exports": {table: _exports(asked, table) for table in TABLES},
        "all_url": _decisions(asked),
        "lag": rollup_lag.lag(asked.environment.pk),
    }


def _hit_most(asked: BlockedAsked, question: Question, column: str, count: int) -> list[Row]:
    """The names with most blocked calls, and all others in a row of their own, so that they make up the whole."""
    found = counts.most(question, column, NAMES_SHOWN)
    rows = [_row(asked, column, *each, count) for each in found]
    if column == "user_id":
        rows = _with_users(asked, question, rows)
    rest = count - sum(calls for _, calls in found)
    if rest <= 0:
        return rows
    others = wording.count(counts.names(question, column) - len(found))
    return [*rows, Row(f"Other ({others})", wording.count(rest), wording.share(rest, count), None)]


def _with_users(asked: BlockedAsked, question: Question, rows: Sequence[Row]) -> list[Row]:
    users = [row.name for row in rows]
    most = counts.most_of_each(question, "user_id", users, ("reason_code", "policy"))
    back = coming_back.of_users(question, asked.zone, users)
    return [
        replace(row, most_by=_most_by(asked, *most[row.name]), back=_back(back.get(row.name))) for row in rows
    ]


def _most_by(asked: BlockedAsked, reason: str, policy: str) -> str:
    """`Daily request limit, Free plan`"""
    of = f", {_name(asked, 'policy', policy)}" if policy else ""
    return f"{_name(asked, 'reason_code', reason)}{of}"


def _back(found: Back | None) -> str:
    if found is None or not found.within_24_h:
        return "no"
    return "same day" if found.same_day else "within 24 h"


def _row(asked: BlockedAsked, column: str, name: str, calls: int, of: int) -> Row:
    return Row(
        name=_name(asked, column, name),
        calls=wording.count(calls),
        share=wording.share(calls, of),
        url=_decisions(asked, {column: name}),
        page_url=asked.user_url(name) if column == "user_id" else None,
    )


def _name(asked: BlockedAsked, column: str, name: str) -> str:
    if not name:
        return _NONE.get(column, "")
    if column == "policy":
        return asked.policies.get(name, name)
    return dict(reason_words.of_blocks()).get(name, name) if column == "reason_code" else name


def _course(asked: BlockedAsked, question: Question, reasons: Sequence[str]) -> Course:
    """The columns are days of the tenant, or hours of a short period."""
    period = question.period
    hourly = period.end - period.start <= HOURLY_UNTIL
    window = Window.HOUR if hourly else Window.DAY
    starts = [from_ms(each.start) for each in Period(period.start, period.end).spans(window, asked.zone)]
    found = counts.over_time(question, starts)
    shown = list(reasons[: charts.SERIES_MAX - (len(reasons) > charts.SERIES_MAX)])
    numbers = {name: [0] * len(starts) for name in [*shown, *([OTHERS] if len(reasons) > len(shown) else [])]}
    for place, reason, calls in found:
        numbers[reason if reason in numbers else OTHERS][place] += calls
    titles = {name: _name(asked, "reason_code", name) for name in numbers}
    labels = [_label(start, hourly=hourly) for start in starts]
    chart = charts.stacked(
        labels,
        [(titles[name], each) for name, each in numbers.items()],
        lambda at, name, calls: f"{at}: {wording.count(calls)} {name}",
    )
    ends = [*starts[1:], period.end]
    buckets = tuple(
        Bucket(
            label=labels[place],
            at=starts[place],
            calls=wording.count(sum(each[place] for each in numbers.values())),
            url=_decisions(asked, start=starts[place], end=ends[place]),
            cells=tuple(wording.count(each[place]) if each[place] else "" for each in numbers.values()),
        )
        for place in range(len(starts))
    )
    return Course(chart, f"{wording.counted(chart.most, 'call')} at most", buckets, hourly)


def _label(at: datetime, *, hourly: bool) -> str:
    here = timezone.localtime(at)
    return f"{here:%d %b %H:%M}" if hourly else f"{here:%a} {here.day} {here:%b}"


def _decisions(
    asked: BlockedAsked,
    more: Mapping[str, str] | None = None,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> str | None:
    """The list of these calls. None: it has no filter for what is asked."""
    period = asked.shown
    assert period is not None
    filters = {**asked.question(period.days).filters, **(more or {})}
    if not all(filters.values()):
        return None
    return _list_of(asked.environment, filters, since=start or period.start, until=end or period.end)


def _list_url(asked: BlockedAsked) -> str:
    """The same without the filters that it does not have, and where what was typed cannot be read."""
    period = asked.shown
    if period is None:
        return _list_of(asked.environment, {})
    filters = {name: value for name, value in asked.question(period.days).filters.items() if value}
    return _list_of(asked.environment, filters, since=period.start, until=period.end)


def _list_of(environment: Environment, filters: Mapping[str, str], **times: datetime) -> str:
    given = {
        environments.PARAMETER: str(environment),
        **{_FILTERS[name]: value for name, value in filters.items()},
        **{name: timezone.localtime(at).isoformat(timespec="minutes") for name, at in times.items()},
    }
    return f"{reverse('admin:policies_blockeddecision_changelist')}?{urlencode(given)}"


def _exports(asked: BlockedAsked, table: str) -> list[tuple[str, str]]:
    own = {name: asked.data.get(name, "") for name in ("reason", "policy")}
    parameters = {**asked.parameters(), **{name: value for name, value in own.items() if value}}
    return export_links.of_table("blocked", asked.environment, table, **parameters)


def _export(request: HttpRequest, asked: BlockedAsked) -> HttpResponseBase:
    """One table of the page, with all its rows."""
    table, kind = request.GET["table"], request.GET.get("format", "")
    if table not in TABLES or kind not in export_links.FORMATS or asked.shown is None:
        raise BadRequest(f"Name a table ({', '.join(TABLES)}), a format (csv, json) and a period.")
    period = asked.shown
    question = asked.question(period.days)
    about: dict[str, object] = {
        "environment": str(asked.environment),
        "table": table,
        "from": period.start.astimezone(asked.zone).isoformat(),
        "to": period.end.astimezone(asked.zone).isoformat(),
        "time_zone": asked.zone.key,
        "filters": dict(question.filters),
        "as_of": asked.now.astimezone(asked.zone).isoformat(timespec="seconds"),
        "rolled_up_before_transaction": rollup_lag.lag(asked.environment.pk).mark_xid,
    }
    columns, rows = _table(asked, question, table)
    name = f"blocked-{table}-{period.days.first}-{period.days.last}"
    return exporting.download(Format(kind), name, exporting.written(Format(kind), about, columns, rows))


def _table(
    asked: BlockedAsked, question: Question, table: str
) -> tuple[tuple[str, ...], Iterable[dict[str, object]]]:
    if table == "over_time":
        return ("at", "reason_code", "reason", "calls"), _over_time(asked, question)
    column = "reason_code" if table == "reasons" else GROUPS[table]
    return (column, "name", "calls"), (
        {column: name, "name": _name(asked, column, name), "calls": calls}
        for name, calls in counts.all_of(question, column)
    )


def _over_time(asked: BlockedAsked, question: Question) -> Iterator[dict[str, object]]:
    period = question.period
    window = Window.HOUR if period.end - period.start <= HOURLY_UNTIL else Window.DAY
    starts = [from_ms(each.start) for each in Period(period.start, period.end).spans(window, asked.zone)]
    for place, reason, calls in counts.over_time(question, starts):
        yield {
            "at": starts[place].astimezone(asked.zone).isoformat(),
            "reason_code": reason,
            "reason": _name(asked, "reason_code", reason),
            "calls": calls,
        }
