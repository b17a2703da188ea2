"""Made-up rows of the ledger, in any number: to try pages and sums on a ledger of the size of a busy product's.

They are like real ones: busy days and quiet nights, few users with most of the calls, five features, models of several
providers with the prices of the book and one without, calls that failed or were never reported, and estimates that were
taken back. The same seed, size and end make the same rows. They go in by COPY, past no constraint or trigger, and their
request ids are claimed, so that a second time is refused.

The product is said by its features. One that is launched within the time adds its calls from then on. Where the calls
are to obey limits, `write` asks whether each one passes, and leaves out those that do not.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

from django.db import connection, transaction
from psycopg.errors import UniqueViolation

from usage.amounts import Amounts
from usage.ledger import partitions, request_ids
from usage.prices.book import PriceBook
from usage.prices.cost import Price, Use, cost_of

ROWS_AT_ONCE = 250_000
USERS_MAX = 1_000_000
_SLOT = timedelta(minutes=15)
_KINDS = 4_096
_PICKS = 65_536
_LINES_AT_ONCE = 2_000
_NULL = r"\N"
# By no policy and no key.
_NOT_ASKED = "\t".join([_NULL] * 3)
_ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Feature:
    """`share`: how many of its calls there are beside those of the others. `models`: with their providers and shares.

    `usual_in`, `usual_out`: tokens of a call. `launched_at`: None, if it was always there.
    """

    name: str
    share: int
    models: tuple[tuple[str, str, int], ...]
    usual_in: int
    usual_out: int
    has_runs: bool = False
    launched_at: datetime | None = None


FEATURES = (
    Feature("chat", 50, (("gpt-4o-mini", "openai", 80), ("claude-sonnet-4-5", "anthropic", 20)), 900, 250),
    Feature("summary", 20, (("gpt-4o-mini", "openai", 60), ("gemini-2.5-flash", "google", 40)), 4_000, 300),
    Feature("code", 15, (("claude-sonnet-4-5", "anthropic", 70), ("gpt-4o", "openai", 30)), 6_000, 900),
    Feature("search", 10, (("gpt-4o-mini", "openai", 100),), 500, 60),
    Feature(
        "agent",
        5,
        (("claude-sonnet-4-5", "anthropic", 98), ("in-house-7b", "", 2)),
        3_000,
        500,
        has_runs=True,
    ),
)
_PLANS = (("free", 70), ("pro", 25), ("enterprise", 5))
_STATUSES = (
    ("succeeded", 950),
    ("partial", 15),
    ("failed", 20),
    ("cancelled", 10),
    ("unsettled", 3),
    ("late", 2),
)
_REPORTS_COST = 0.3
_LATENCY_MS = 900

# Of the ledger, in the order in which a row is written.
_COLUMNS = (
    "environment_id", "request_id", "charged_at", "user_id", "plan", "run_id", "policy_id", "policy_version",
    "api_key_id", "feature", "model", "provider", "status", "requests", "input_tokens", "output_tokens",
    "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "cost_nano", "reported_cost_nano", "price_id",
    "latency_ms",
)  # fmt: skip


class MadeAlready(Exception):
    """Rows of the same seed are in the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many calls until when, over how many days, of how many users, for what."""

    environment_id: int
    calls: int
    until: datetime
    days: int
    users: int
    seed: int
    features: tuple[Feature, ...] = FEATURES

    @property
    def first(self) -> datetime:
        return self.until - timedelta(days=self.days)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is the same of many calls. `rows` is the end of their rows; a call that was reported late has three.

    `amounts` is what a call used in all, `price` that by which it is charged.
    """

    feature: Feature
    model: str
    amounts: Amounts
    price: Price | None
    rows: tuple[str, ...]
    # Only the estimate of an expired hold is known.
    is_estimate: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A call before it is made."""

    request_id: str
    at: datetime
    user_id: str
    plan: str
    run_id: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class AllowedBy:
    """The policy that let a call pass, if one did, and the key that asked."""

    policy_id: str | None
    policy_version: int | None
    api_key_id: int


# None: the call is not made.
Deciding = Callable[[Asked], AllowedBy | None]


def write(plan: Plan, book: PriceBook, decide: Deciding | None = None) -> Iterator[int]:
    """Writes them in order of time, ROWS_AT_ONCE calls in a transaction; after each how many calls there are.

    `decide` is asked of each call, in the same order. Raises MadeAlready, DatabaseError.
    """
    partitions.ensure(_days(plan.first, plan.until))
    request_ids.turn(plan.until)
    generation = request_ids.current()
    calls = _calls(plan, book, decide)
    written = 0
    while some := list(islice(calls, ROWS_AT_ONCE)):
        try:
            _copy(plan.environment_id, generation, some)
        except UniqueViolation as error:
            raise MadeAlready(f"request ids of seed {plan.seed} are in the ledger already") from error
        written += len(some)
        yield written


# The request id, the time, and the rest of the row up to the kind; and the kind.
_Call = tuple[str, str, str, Kind]


def _calls(plan: Plan, book: PriceBook, decide: Deciding | None) -> Iterator[_Call]:
    chosen = random.Random(plan.seed)  # noqa: S311 (not for secrets)
    kinds = _kinds(plan, book, chosen)
    launches = [_launched_at(kind.feature) for kind in kinds]
    users = _users(plan.users, chosen)
    chance, number = chosen.random, 0
    for start, count in _slots(plan):
        step = _SLOT / count
        launched = bisect_right(launches, start)
        for place in range(count):
            kind = kinds[int(chance() * launched)]
            user = users[int(chance() * len(users))]
            run = f"run-{number // 8}" if kind.feature.has_runs else ""
            request_id, at = f"made-{plan.seed}-{number}", start + place * step
            number += 1
            allowed_by = _NOT_ASKED
            if decide is not None:
                user_id, of_plan = user.split("\t")
                found = decide(Asked(request_id, at, user_id, of_plan, run, kind))
                if found is None:
                    continue
                allowed_by = _values(found.policy_id, found.policy_version, found.api_key_id)
            yield request_id, str(at), f"{user}\t{run}\t{allowed_by}", kind


def _launched_at(feature: Feature) -> datetime:
    return feature.launched_at or _ALWAYS


def _slots(plan: Plan) -> Iterator[tuple[datetime, int]]:
    """Quarter hours and how many calls each has: most at noon, few at night, fewer at weekends and before a launch."""
    starts = [plan.first + place * _SLOT for place in range(plan.days * 96)]
    weights = [_busy(start) * _launched_share(plan, start) for start in starts]
    of_all, due, done = sum(weights), 0.0, 0
    for start, weight in zip(starts, weights, strict=True):
        due += plan.calls * weight / of_all
        # So that all of them add up, whatever is rounded.
        count = round(due) - done
        done += count
        if count:
            yield start, count


def _launched_share(plan: Plan, at: datetime) -> int:
    return sum(feature.share for feature in plan.features if _launched_at(feature) <= at)


def _busy(at: datetime) -> float:
    hour = at.hour + at.minute / 60
    return (1.2 - math.cos(math.pi * hour / 12)) * (0.4 if at.weekday() > 4 else 1.0)


def _copy(environment_id: int, generation: date | None, calls: Sequence[_Call]) -> None:
    digest = f"\\\\x{'00' * 32}"
    claims = (
        f"{environment_id}\t{request_id}\t{at}\t{_NULL if kind.is_estimate else digest}\t{generation}\n"
        for request_id, at, _, kind in calls
    )
    rows = (
        f"{environment_id}\t{request_id}\t{at}\t{rest}\t{row}\n"
        for request_id, at, rest, kind in calls
        for row in kind.rows
    )
    with transaction.atomic():
        _send("usage_request (environment_id, request_id, charged_at, body_digest, generation)", claims)
        _send(f"usage_event ({', '.join(_COLUMNS)})", rows)


def _send(into: str, lines: Iterator[str]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN") as copy:
        while some := "".join(islice(lines, _LINES_AT_ONCE)):
            copy.write(some)


def _kinds(plan: Plan, book: PriceBook, chosen: random.Random) -> list[Kind]:
    """In the order in which their features were launched."""
    kinds = [_kind(plan, book, chosen) for _ in range(_KINDS)]
    return sorted(kinds, key=lambda kind: _launched_at(kind.feature))


def _kind(plan: Plan, book: PriceBook, chosen: random.Random) -> Kind:
    feature = _of(plan.features, [each.share for each in plan.features], chosen)
    model, provider, _ = _of(feature.models, [row[2] for row in feature.models], chosen)
    status = _of(_STATUSES, [row[1] for row in _STATUSES], chosen)[0]
    tokens_in = max(1, int(chosen.lognormvariate(math.log(feature.usual_in), 0.6)))
    tokens_out = max(1, int(chosen.lognormvariate(math.log(feature.usual_out), 0.7)))
    if status == "failed":
        tokens_in = tokens_out = 0
    cached = int(tokens_in * chosen.choice((0, 0, 0.5, 0.8)))
    found = book.find(model, plan.until, provider)
    named = f"{feature.name}\t{model}\t{provider}"
    price = None if found is None else found.price

    def row(
        status: str, tokens_out: int, *, sign: int = 1, cached: int = 0, reports: bool = False
    ) -> tuple[str, Amounts]:
        use = Use(input_tokens=tokens_in, output_tokens=tokens_out, cached_input_tokens=cached)
        cost = None if price is None else cost_of(price, use).nano
        requests = 0 if status in ("failed", "cancelled") and not tokens_in + tokens_out else sign
        values: tuple[Any, ...] = (
            named,
            status,
            requests,
            sign * tokens_in,
            sign * tokens_out,
            sign * cached,
            0,
            0,
            None if cost is None else sign * cost,
            int(cost * chosen.uniform(0.98, 1.02)) if reports and cost is not None else None,
            None if price is None else price.price_id,
            None if status in ("unsettled", "reversal") else int(chosen.expovariate(1 / _LATENCY_MS)),
        )
        return _values(*values), Amounts(requests, tokens_in, tokens_out, cost or 0)

    # What a hold reserves, which is more than most calls use.
    estimate, held = row("unsettled", tokens_out * 3)
    if status == "unsettled":
        return Kind(feature, model, held, price, (estimate,), is_estimate=True)
    if status == "late":
        taken_back, _ = row("reversal", tokens_out * 3, sign=-1)
        report, used = row("succeeded", tokens_out)
        return Kind(feature, model, used, price, (estimate, report, taken_back), is_estimate=False)
    reports = chosen.random() < _REPORTS_COST
    only, used = row(status, tokens_out, cached=cached, reports=reports)
    return Kind(feature, model, used, price, (only,), is_estimate=False)


def _values(*values: Any) -> str:
    return "\t".join(_NULL if value is None else str(value) for value in values)


def _users(count: int, chosen: random.Random) -> list[str]:
    """Picks with their plans: the first user is picked as often as the next two together."""
    plans = chosen.choices([name for name, _ in _PLANS], [weight for _, weight in _PLANS], k=count)
    weights = [1 / (place + 1) ** 0.8 for place in range(count)]
    names = [f"user-{place}\t{plans[place]}" for place in range(count)]
    # Each once at least.
    return [*names, *chosen.choices(names, weights, k=max(_PICKS, 2 * count))]


def _of(rows: Sequence[Any], weights: Sequence[int], chosen: random.Random) -> Any:
    return chosen.choices(rows, weights)[0]


def _days(first: datetime, last: datetime) -> Iterator[datetime]:
    while first < last:
        yield first
        first += timedelta(days=1)
    yield last
