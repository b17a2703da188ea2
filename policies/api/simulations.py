"""`POST /v1/policies/simulate` and `GET /v1/policies/simulations/{simulation_id}`: policy replay."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample
from msgspec import Meta
from rest_framework.request import Request

from policies import policy_rows
from policies.api import policy_file
from policies.api.policy_file import PolicyFile
from policies.files.file_errors import PolicyFileError
from policies.models import Draft, PolicyReplay, ReplayState
from policies.replaying import jobs, past_calls
from policies.replaying.at_once import AT_ONCE_MAX
from policies.replaying.jobs import Candidate
from policies.replaying.periods import DEFAULT_PERIOD
from policies.replaying.replay import replay
from policies.replaying.report import SimulationReport
from tenants import scopes
from tenants.api import http, problems, queries
from tenants.api.openapi import operation
from tenants.models import Environment
from usage.api.key_view import KeyView
from usage.ledger.periods import PERIOD_MAX, Instant, Period, checked

RETRY_AFTER_S = 10
SOURCE = "a policy file"


class SimulationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Either `policies` or `draft`."""

    policies: Annotated[PolicyFile | None, Meta(description="As `PUT /v1/policy-file` takes it.")] = None
    draft: Annotated[
        Annotated[int, Meta(ge=1, le=2**63 - 1)] | None,
        Meta(description="The number in its address in the console."),
    ] = None
    from_: Annotated[Instant | None, Meta(description="Without it: 30 days before `to`.")] = msgspec.field(
        name="from", default=None
    )
    to: Annotated[
        Instant | None, Meta(description="Until before this. Without it, or later than now: now.")
    ] = None
    self_check: Annotated[
        bool,
        Meta(
            description="Also replay the policies that were in force, and say how far that agrees with what was "
            "decided. Takes about twice as long."
        ),
    ] = False


class SimulationAnswer(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`report` is there when `state` is done; `error` says why there is none when it failed."""

    simulation_id: UUID
    state: ReplayState
    source: str
    draft: int | None
    self_check: bool
    from_: datetime
    to: datetime
    calls_done: int
    calls_in_all: Annotated[int, Meta(description="About, as counted when it was asked for.")]
    asked_at: datetime
    asked_by: str
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    report: SimulationReport | None


SIMULATION_REQUEST = {
    "policies": {
        "version": 1,
        "plans": [],
        "policies": [
            {
                "name": "Everyone",
                "limits": [{"metric": "requests", "window": "day", "amount": 40, "per": "user"}],
            }
        ],
    },
    "from": "2026-11-01T00:00:00Z",
}
SIMULATION_ANSWER = {
    "simulation_id": "0b8f6f0e-3d0a-4f4e-9a35-7f6f1c1d2e3f",
    "state": "running",
    "source": SOURCE,
    "draft": None,
    "self_check": False,
    "from": "2026-11-01T00:00:00Z",
    "to": "2026-11-23T10:15:00Z",
    "calls_done": 30_000,
    "calls_in_all": 83_412,
    "asked_at": "2026-11-23T10:15:00Z",
    "asked_by": "key:0Jk3xPq9TzLm",
    "started_at": "2026-11-23T10:15:02Z",
    "finished_at": None,
    "error": None,
    "report": None,
}
_asked = OpenApiExample(
    "simulation", SIMULATION_REQUEST, summary="What would 40 requests a day have blocked?", request_only=True
)
_running = OpenApiExample(
    "running", SIMULATION_ANSWER, summary="It runs", response_only=True, status_codes=["202"]
)
_body = msgspec.json.Decoder(SimulationRequest)


class SimulateView(KeyView):
    scope = scopes.POLICIES_READ

    @operation(
        "simulatePolicies",
        "What other policies would have decided of the calls of a past period",
        tag="policies",
        description=f"Changes nothing. Up to about {AT_ONCE_MAX:,} calls are answered at once (200). More become a "
        "stored replay (202): `Location` is where its progress and then its report are.",
        query=queries.NoParameters,
        body=SimulationRequest,
        answers={200: SimulationReport, 202: SimulationAnswer},
        examples=[_asked, _running],
    )
    def post(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        body = http.decode(request._request, _body)
        period = past_period(body.from_, body.to, timezone.now())
        environment = Environment.objects.select_related("tenant").get(pk=self.environment_id)
        candidate = _candidate(environment, body)
        if past_calls.count(environment.pk, period.start, period.end) <= AT_ONCE_MAX:
            policies = policy_rows.supposed(environment.pk, candidate.policies.policies)
            found = replay(environment, policies, period.start, period.end, check=body.self_check)
            return http.json_response(found)
        return self._stored(environment, candidate, period, self_check=body.self_check)

    def _stored(
        self, environment: Environment, candidate: Candidate, period: Period, *, self_check: bool
    ) -> HttpResponse:
        try:
            asked = jobs.ask(
                environment, candidate, period.start, period.end, actor=self.actor, self_check=self_check
            )
        except jobs.TooMany as error:
            raise problems.Problem(429, "RATE_LIMITED", f"{error}.", retry_after_s=RETRY_AFTER_S) from error
        response = http.json_response(_answer(asked), 202)
        response["Location"] = f"/v1/policies/simulations/{asked.pk}"
        return response


class SimulationView(KeyView):
    scope = scopes.POLICIES_READ

    @operation(
        "getSimulation",
        "How far a stored replay is, and its report",
        tag="policies",
        path={"simulation_id": "As `POST /v1/policies/simulate` named it."},
        query=queries.NoParameters,
        answers={200: SimulationAnswer},
        problems=(404,),
        examples=[OpenApiExample("simulation", SIMULATION_ANSWER, summary="It runs", response_only=True)],
    )
    def get(self, request: Request, simulation_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        return http.json_response(_answer(_one(self.environment_id, simulation_id)))


def _one(environment_id: int, simulation_id: str) -> PolicyReplay:
    """Raises Problem 404 for an id that is none, unknown, or of another environment."""
    try:
        return PolicyReplay.objects.get(environment_id=environment_id, pk=UUID(simulation_id))
    except (ValueError, PolicyReplay.DoesNotExist) as error:
        raise problems.not_found("simulation") from error


def past_period(since: datetime | None, until: datetime | None, now: datetime) -> Period:
    """Of `from` and `to`. Raises Problem 422."""
    end = min(checked("to", until) or now, now)
    start = checked("from", since) or end - DEFAULT_PERIOD
    if start >= end:
        raise problems.invalid_field(
            "from", f"must be before {end:%Y-%m-%dT%H:%M:%SZ}, where the period ends"
        )
    if end - start > PERIOD_MAX:
        raise problems.invalid_field("from", f"a period has at most {PERIOD_MAX.days} days; ask in parts")
    return Period(start, end)


def _candidate(environment: Environment, body: SimulationRequest) -> Candidate:
    """Raises Problem 422."""
    if (body.policies is None) == (body.draft is None):
        raise problems.invalid_field("policies", "give either `policies` or `draft`")
    if body.draft is not None:
        return Candidate.of_draft(_draft(environment, body.draft))
    assert body.policies is not None
    try:
        return Candidate(policies=policy_file.policy_set(body.policies), source=SOURCE)
    except PolicyFileError as error:
        raise policy_file.refused(error, inside="policies") from error


def _draft(environment: Environment, draft_id: int) -> Draft:
    found = environment.drafts.filter(pk=draft_id).first()
    if found is None:
        raise problems.invalid_field("draft", "there is no such draft in this environment")
    found.environment = environment
    return found


def _answer(asked: PolicyReplay) -> SimulationAnswer:
    report = jobs.report_of(asked)
    return SimulationAnswer(
        simulation_id=asked.pk,
        state=ReplayState(asked.state),
        source=asked.source,
        draft=asked.draft_id,
        self_check=asked.self_check,
        from_=asked.start,
        to=asked.end,
        calls_done=asked.calls_done,
        calls_in_all=asked.calls_in_all,
        asked_at=asked.asked_at,
        asked_by=asked.asked_by,
        started_at=asked.started_at,
        finished_at=asked.finished_at,
        error=asked.error or jobs.unreadable(asked) or None,
        report=report,
    )
