"""`POST` and `GET /v1/usage`, `POST /v1/usage/batch`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from msgspec import Meta
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request

from tenants import exporting, scopes
from tenants.api import http, queries
from tenants.api.callers import Caller
from tenants.api.direct_post import DirectPost
from tenants.api.openapi import operation
from tenants.api.problems import FieldError, Problem, invalid_field
from tenants.exporting import Format
from usage.api import examples
from usage.api.key_view import KeyView
from usage.counting import rules
from usage.counting.rules import CountingRules
from usage.ledger import export, listing
from usage.ledger.listing import EventPage, EventQuery
from usage.settling.reports import admit, record_batch, record_report, require_sound
from usage.settling.usage_report import UsageReceipt, UsageReport

BATCH_MAX = 500
# How many different reports of one request_id a batch may hold: each costs a transaction of its own.
CONTENTS_MAX = 4

_FILE_TYPES = {
    "text/csv": Format.CSV,
    "application/jsonl": Format.JSON_LINES,
    "application/x-ndjson": Format.JSON_LINES,
}

_report = msgspec.json.Decoder(UsageReport)
_encode = msgspec.json.Encoder().encode


class UsageBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events are decoded one by one, so that a bad one spoils no other."""

    events: Annotated[tuple[msgspec.Raw, ...], Meta(min_length=1, max_length=BATCH_MAX)]


class UsageBatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """UsageBatch as callers write it."""

    events: Annotated[
        tuple[UsageReport, ...],
        Meta(min_length=1, max_length=BATCH_MAX, description="Reports as for `POST /v1/usage`."),
    ]


_batch = msgspec.json.Decoder(UsageBatch)


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    code: Annotated[str, Meta(description="As a problem of `POST /v1/usage`.")]
    detail: Annotated[str, Meta(description="What is wrong and what to do.")]
    errors: Annotated[
        tuple[FieldError, ...], Meta(description="The first field that is wrong, and how to fix it.")
    ]


class BatchResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`status`: recorded, duplicate, conflict or invalid; `error` says why for the last two."""

    index: Annotated[int, Meta(description="Of the event in the batch, from 0.")]
    request_id: Annotated[str | None, Meta(description="Of the event; null if it cannot be read.")]
    status: Annotated[str, Meta(description="recorded, duplicate, conflict or invalid.")]
    cost_usd: Annotated[
        str | None,
        Meta(
            description="Decimal string in USD; left out if the model has no price or nothing was recorded."
        ),
    ] = None
    unpriced: Annotated[
        tuple[str, ...],
        Meta(description="What of it has no rate, by name; left out if there is nothing."),
    ] = ()
    error: Annotated[BatchError | None, Meta(description="Why; only for conflict and invalid.")] = None


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    results: Annotated[tuple[BatchResult, ...], Meta(description="One for each event, in order.")]


def _accepted_file(request: Request) -> Format | None:
    return _FILE_TYPES.get(request.headers.get("Accept", "").partition(";")[0].strip().lower())


class _AlsoFiles(DefaultContentNegotiation):
    """A caller who accepts a file is answered one, or a problem in JSON."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        if _accepted_file(request) is not None:
            return renderers[0], renderers[0].media_type
        return super().select_renderer(request, renderers, format_suffix)


class UsageView(DirectPost, KeyView):
    """One address, two scopes: a POST writes to the ledger, a GET reads it."""

    scope = scopes.USAGE_READ
    content_negotiation_class = _AlsoFiles

    @operation(
        "recordUsage",
        "Report what a call used: its hold becomes a charge, exactly once",
        tag="usage",
        description=(
            "201: recorded now. 200: the same request was recorded before; `duplicate` is true and `limit_state` is "
            "empty."
        ),
        body=UsageReport,
        answers={200: UsageReceipt, 201: UsageReceipt},
        problems=(409,),
        examples=examples.RECORD_USAGE,
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        caller, known = admitted(request)
        report = http.decode(request, _report)
        receipt = record_report(report, admit(caller, known, [report]))
        return http.json_response(receipt, 200 if receipt.duplicate else 201)

    @operation(
        "listUsage",
        "The rows of the ledger, newest first",
        tag="usage",
        description=(
            "The next page is at `cursor=` the `next_cursor` of this one; null: there is none. With `format=jsonl` or "
            "`csv` all rows of the period are answered at once, by default those of this calendar month: first what "
            "the file is (`about`, or lines that begin with `#`), then a row a line."
        ),
        query=EventQuery,
        answers={200: EventPage, (200, "application/jsonl"): str, (200, "text/csv"): str},
    )
    def get(self, request: Request) -> HttpResponseBase:
        query = queries.decode(request._request, EventQuery)
        kind = _file_format(request, query)
        if kind is not None:
            return self._file(request, query, kind)
        return http.json_response(listing.page(self.environment_id, query))

    def _file(self, request: Request, query: EventQuery, kind: Format) -> HttpResponseBase:
        now = timezone.now()
        asked = export.asked_for(query, set(request.GET), now, self.counting.tracked.zone)
        lines = export.lines(self.environment_id, query, asked, kind, now)
        return exporting.download(kind, export.name(asked), lines)


def _file_format(request: Request, query: EventQuery) -> Format | None:
    """None: a page. What the address says counts before the header."""
    if query.format is not None:
        return None if query.format == "json" else Format(query.format)
    return _accepted_file(request)


class UsageBatchView(DirectPost):
    # What DRF asks for before it refuses another verb than POST.
    scope = scopes.USAGE_WRITE

    @operation(
        "recordUsageBatch",
        "Report up to 500 calls at once",
        tag="usage",
        description="One result for each event, in order; a bad one spoils no other.",
        body=UsageBatchRequest,
        answers={200: BatchAnswer},
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        caller, known = admitted(request)
        events = _events(request)
        outcomes: dict[int, UsageReceipt | Problem] = {}
        reports: dict[int, UsageReport] = {}
        for index, raw in enumerate(events):
            try:
                reports[index] = http.parse(raw, _report)
            except Problem as problem:
                outcomes[index] = problem
        named_again = _named_again(reports)
        for index, report in list(named_again.items()):
            try:
                require_sound(report)
            except Problem as problem:
                # It is none of the contents that its request_id stands for.
                outcomes[index] = problem
                del reports[index], named_again[index]
        firsts = _firsts(named_again)
        repeated = {index: first for index, first in firsts.items() if index != first}
        turns = _turns({index: report for index, report in reports.items() if index not in repeated})
        for indexes in turns[:CONTENTS_MAX]:
            turn = [reports[index] for index in indexes]
            recorded = record_batch(turn, admit(caller, known, turn))
            outcomes |= zip(indexes, recorded, strict=True)
        outcomes |= {index: _too_many_contents() for late in turns[CONTENTS_MAX:] for index in late}
        outcomes |= {index: _again(outcomes[first]) for index, first in repeated.items()}
        results = tuple(_result(index, raw, outcomes[index]) for index, raw in enumerate(events))
        return http.json_response(BatchAnswer(results=results))


def _events(request: HttpRequest) -> tuple[msgspec.Raw, ...]:
    """Each as it was sent. Raises Problem."""
    try:
        return http.decode(request, _batch).events
    except Problem as problem:
        # Of another kind, or too large, it is not read at all.
        found = _told_apart(request.body) if problem.status == 422 else None
        if found is None:
            raise
        return found


def _told_apart(body: bytes) -> tuple[msgspec.Raw, ...] | None:
    """The events of a batch of which one holds what is no text, such as half of an emoji; None: it is no such batch.

    Python reads these, and the one event is refused when it is read by itself.
    """
    try:
        batch = json.loads(body)
    except (ValueError, RecursionError):
        return None
    events = batch.get("events") if isinstance(batch, dict) and len(batch) == 1 else None
    if not isinstance(events, list) or not 0 < len(events) <= BATCH_MAX:
        return None
    return tuple(msgspec.Raw(json.dumps(event).encode()) for event in events)


def admitted(request: HttpRequest) -> tuple[Caller, CountingRules]:
    """Who reports, and the rules it was let in by; before the body is read. Raises Problem 401, 403."""
    caller = Caller.of(request, scopes.USAGE_WRITE)
    known, _ = caller.admitted(rules.of_key, rules.latest)
    return caller, known


def _named_again(reports: Mapping[int, UsageReport]) -> dict[int, UsageReport]:
    """The events whose request_id comes more than once."""
    named = Counter(report.request_id for report in reports.values())
    return {index: report for index, report in reports.items() if named[report.request_id] > 1}


def _firsts(reports: Mapping[int, UsageReport]) -> dict[int, int]:
    """For each event the index of the first one of them with the same content."""
    seen: dict[bytes, int] = {}
    return {index: seen.setdefault(_encode(report), index) for index, report in reports.items()}


def _turns(reports: Mapping[int, UsageReport]) -> list[list[int]]:
    """The events in groups that name each request_id once. A group is recorded after the one before it, so the second
    report of a request_id is compared with the first."""
    turns: list[list[int]] = []
    seen: Counter[str] = Counter()
    for index, report in reports.items():
        if seen[report.request_id] == len(turns):
            turns.append([])
        turns[seen[report.request_id]].append(index)
        seen[report.request_id] += 1
    return turns


def _again(outcome: UsageReceipt | Problem) -> UsageReceipt | Problem:
    """The answer to a further event with the same content."""
    if isinstance(outcome, Problem):
        return outcome
    return msgspec.structs.replace(outcome, duplicate=True, limit_state=())


def _too_many_contents() -> Problem:
    return invalid_field(
        "request_id", f"stands for more than {CONTENTS_MAX} different reports in this batch; send it once"
    )


def _result(index: int, raw: msgspec.Raw, outcome: UsageReceipt | Problem) -> BatchResult:
    if isinstance(outcome, Problem):
        return BatchResult(
            index=index,
            request_id=_request_id(raw),
            status="conflict" if outcome.code == "IDEMPOTENCY_CONFLICT" else "invalid",
            error=BatchError(code=outcome.code, detail=outcome.detail, errors=outcome.errors),
        )
    status = "duplicate" if outcome.duplicate else "recorded"
    return BatchResult(
        index=index,
        request_id=outcome.request_id,
        status=status,
        cost_usd=outcome.cost_usd,
        unpriced=outcome.unpriced,
    )


def _request_id(raw: msgspec.Raw) -> str | None:
    """The bad event's request_id, if it has one that can be read and said."""
    try:
        event = json.loads(bytes(raw))
        named = event.get("request_id") if isinstance(event, dict) else None
        return named if isinstance(named, str) and named.encode() else None
    except (ValueError, RecursionError):
        return None
