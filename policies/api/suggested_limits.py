"""`GET /v1/policies/suggested-limits`: amounts for a limit, from what was used in a past period."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample
from msgspec import Meta
from rest_framework.request import Request

from policies.api import simulations
from policies.replaying import suggested_policy, suggesting
from policies.replaying.suggesting import WINDOWS, Asked, Suggested
from tenants import scopes
from tenants.api import http, problems, queries
from tenants.api.openapi import operation
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from usage.amounts import Per
from usage.api.key_view import KeyView
from usage.ledger.periods import Instant
from usage.metrics import Metric
from usage.money import format_usd
from usage.windows import Window

Name = Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]


class SuggestedLimitsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`of`: whether the shares are of those that the limit counts for, or of the money that was spent."""

    metric: Annotated[Metric, Meta(description="Of what is counted in a window: not `concurrency`.")] = (
        Metric.REQUESTS
    )
    window: Annotated[Window, Meta(description=f"One of {', '.join(WINDOWS)}.")] = Window.DAY
    per: Per = Per.USER
    of: Annotated[Literal["subjects", "money"], Meta(description="`money` is of limits on `cost_usd`.")] = (
        "subjects"
    )
    plan: Annotated[Name | None, Meta(description="Of calls of this plan alone.")] = None
    feature: Annotated[Name | None, Meta(description="Of calls of this feature alone.")] = None
    from_: Annotated[Instant | None, Meta(description="Without it: 30 days before `to`.")] = msgspec.field(
        name="from", default=None
    )
    to: Annotated[
        Instant | None, Meta(description="Until before this. Without it, or later than now: now.")
    ] = None


class SuggestedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` as a policy file has it: a whole number, of `cost_usd` a decimal string."""

    share_percent: int
    amount: int | str
    blocked: Annotated[int, Meta(description="How many would have been, at least once.")]
    blocked_calls: Annotated[
        int | None,
        Meta(
            description="How many calls were asked for beyond the amount, of a limit on `requests`; else null."
        ),
    ]
    saved_usd: Annotated[
        str | None, Meta(description="What would not have been spent, of a limit on cost; else null.")
    ]


class LimitInForce(msgspec.Struct, frozen=True, kw_only=True):
    """`plan`, `feature`: of the policy's scope; empty: of all."""

    policy: str
    plan: str
    feature: str
    amount: int | str


class SuggestedLimits(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`subjects`: how many asked for anything; `spent_usd`: what they spent in all.

    `in_force`: the limits of this kind that bind these calls now; not those of policies for one user.
    """

    metric: Metric
    window: Window
    per: Per
    from_: datetime
    to: datetime
    subjects: int
    spent_usd: str
    in_force: tuple[LimitInForce, ...]
    suggestions: tuple[SuggestedLimit, ...]


_ANSWER = {
    "metric": "requests",
    "window": "day",
    "per": "user",
    "from": "2026-10-24T10:15:00Z",
    "to": "2026-11-23T10:15:00Z",
    "subjects": 300,
    "spent_usd": "172.75",
    "in_force": [{"policy": "Free plan", "plan": "free", "feature": "", "amount": 20}],
    "suggestions": [
        {"share_percent": 1, "amount": 31, "blocked": 3, "blocked_calls": 12, "saved_usd": None},
        {"share_percent": 10, "amount": 9, "blocked": 28, "blocked_calls": 480, "saved_usd": None},
    ],
}
_example = OpenApiExample(
    "suggestions",
    _ANSWER,
    summary="Which daily limit would have blocked one user in ten?",
    response_only=True,
)


class SuggestedLimitsView(KeyView):
    scope = scopes.POLICIES_READ

    @operation(
        "suggestLimits",
        "Amounts for a limit, by what share they would have blocked",
        tag="policies",
        description="From what was asked for in each window of a past period, of 400 days at most: of `requests` what "
        "was used and the calls that a limit blocked, of tokens and costs what was used alone. A subject counts as "
        "blocked if it asked for more than the amount in any window. What calls after a block would have met, "
        "`POST /v1/policies/simulate` says.",
        query=SuggestedLimitsQuery,
        answers={200: SuggestedLimits},
        examples=[_example],
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, SuggestedLimitsQuery)
        asked = _asked(query)
        period = simulations.past_period(query.from_, query.to, timezone.now())
        environment = Environment.objects.select_related("tenant").get(pk=self.environment_id)
        suggest = suggesting.of_money if query.of == "money" else suggesting.of_subjects
        found = suggest(environment, asked, period)
        answer = SuggestedLimits(
            metric=asked.metric,
            window=asked.window,
            per=asked.per,
            from_=period.start,
            to=period.end,
            subjects=found[0].subjects,
            spent_usd=format_usd(found[0].spent_nano),
            in_force=tuple(
                LimitInForce(
                    policy=each.policy.name,
                    plan=each.policy.scope.plan,
                    feature=each.policy.scope.feature,
                    amount=_amount(asked.metric, each.limit.amount),
                )
                for each in suggested_policy.in_force(environment, asked)
            ),
            suggestions=tuple(_said(asked.metric, each) for each in found if each.subjects),
        )
        return http.json_response(answer)


def _asked(query: SuggestedLimitsQuery) -> Asked:
    """Raises Problem 422."""
    if query.metric is Metric.CONCURRENCY:
        raise problems.invalid_field("metric", "must be counted in a window; `concurrency` is not")
    if query.window not in WINDOWS:
        raise problems.invalid_field("window", f"must be one of {', '.join(WINDOWS)}")
    if query.of == "money" and query.metric is not Metric.COST_USD:
        raise problems.invalid_field("of", "`money` is of limits on cost: ask with metric=cost_usd")
    return Asked(
        metric=query.metric,
        window=query.window,
        per=query.per,
        plan=query.plan or "",
        feature=query.feature or "",
    )


def _said(metric: Metric, each: Suggested) -> SuggestedLimit:
    return SuggestedLimit(
        share_percent=each.share_percent,
        amount=_amount(metric, each.amount),
        blocked=each.blocked,
        blocked_calls=each.blocked_calls,
        saved_usd=None if each.saved_nano is None else format_usd(each.saved_nano),
    )


def _amount(metric: Metric, amount: int) -> int | str:
    return format_usd(amount) if metric is Metric.COST_USD else amount
