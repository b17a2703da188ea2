"""The page of an end user: of any id, whether something is stored of the user or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone

from policies import activity, boosts, end_users
from policies.admin import end_user_usage
from policies.admin.boost_forms import give_url
from policies.admin.boosts import says
from policies.admin.end_user_forms import BlockForm, PlanForm
from policies.admin.end_user_usage import UsageAsked
from policies.describing import calls_in_flight
from policies.models import Boost, EndUser
from policies.standing import binding
from policies.standing.binding import Binding, BindingLimit
from policies.standing.binding_rows import LimitRow
from tenants.console import environments
from tenants.console.access import actor_of, may
from tenants.console.pages import page, rendered
from tenants.console.parts import State
from tenants.console.row_ids import is_row_id
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from tenants.roles import May
from usage.amounts import Per
from usage.boosts import raised
from usage.counting import in_flight
from usage.counting.in_flight import CallInFlight


@dataclass(frozen=True, slots=True)
class BoostRow:
    boost: Boost

    @property
    def says(self) -> str:
        return says(self.boost)

    @property
    def runs(self) -> bool:
        return self.boost.started_at <= timezone.now()


@dataclass(frozen=True, slots=True)
class FlightRow:
    flight: CallInFlight

    @property
    def at(self) -> datetime:
        return self.flight.at

    @property
    def holds(self) -> str:
        return calls_in_flight.holds(self.flight)


@page("end_user", "end-user/")
def end_user(request: HttpRequest) -> HttpResponse:
    environment, user_id = environments.meant(request), request.GET.get("user_id", "")
    if not 0 < len(user_id) <= NAME_LENGTH_MAX:
        raise Http404("Name a user.")
    asked = UsageAsked(request, environment, user_id, timezone.now())
    allowed = may(request, May.EDIT_END_USERS, environment.tenant_id)
    if request.method == "POST":
        if not allowed:
            raise PermissionDenied
        forms = _change(request, environment, user_id)
        if forms is None:
            return HttpResponseRedirect(request.get_full_path())
    else:
        forms = _forms(environment, user_id)
    return rendered(
        request,
        "console/end_user.html",
        user_id,
        environment=environment,
        user_id=user_id,
        may_change=allowed,
        give_url=give_url(environment, Per.USER, user_id),
        **forms,
        **_shown(environment, user_id),
        usage=end_user_usage.context(asked),
    )


def _forms(environment: Environment, user_id: str) -> dict[str, Form]:
    stored = _stored(environment, user_id)
    plan = stored.plan.name if stored is not None and stored.plan is not None else ""
    return {
        "plan_form": PlanForm(environment, initial={"plan": plan}, prefix="plan"),
        "block_form": BlockForm(prefix="block"),
    }


def _stored(environment: Environment, user_id: str) -> EndUser | None:
    return EndUser.objects.select_related("plan").filter(environment=environment, user_id=user_id).first()


def _change(request: HttpRequest, environment: Environment, user_id: str) -> dict[str, Form] | None:
    """Does what was asked for. The forms, if one of them cannot be taken."""
    actor, asked = actor_of(request), request.POST.get("do")
    forms = _forms(environment, user_id)
    try:
        if asked == "block":
            forms["block_form"] = block = BlockForm(request.POST, prefix="block")
            if not block.is_valid():
                return forms
            end_users.block(environment, user_id, block.cleaned_data["reason"], actor=actor)
            messages.success(request, f"{user_id} is blocked from the next call on.")
        elif asked == "unblock":
            end_users.unblock(environment, user_id, actor=actor)
            messages.success(request, f"{user_id} may call again.")
        elif asked == "plan":
            forms["plan_form"] = plan = PlanForm(environment, request.POST, prefix="plan")
            if not plan.is_valid():
                return forms
            end_users.change_plan(environment, user_id, plan.cleaned_data["plan"] or None, actor=actor)
            messages.success(request, "The plan is changed from the next call on.")
        elif asked == "end_boost" and is_row_id(boost_id := request.POST.get("boost", "")):
            given = boosts.of_user(environment.pk, user_id).filter(pk=int(boost_id)).first()
            said = "That boost was over already."
            if given is not None and boosts.end_now(given.pk, environment, actor=actor):
                said = f"The boost {says(given)} is ended."
            messages.success(request, said)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    return None


def _shown(environment: Environment, user_id: str) -> dict[str, Any]:
    recent = activity.of_user(environment.pk, user_id)
    flying = in_flight.of_user(environment.pk, user_id)
    plan, features = activity.said(recent, flying)
    binds = binding.of_user(environment.pk, user_id, plan=plan, features=features)
    zone = ZoneInfo(environment.tenant.timezone)
    in_flight_rows = [FlightRow(call) for call in flying[: activity.LISTED_MAX]]
    rows = None
    if binds is not None and binds.limits is not None:
        limits = binding.with_days(binds.limits, environment.pk, zone)
        rows = [LimitRow(limit, zone, _boost_url(environment, user_id, limit)) for limit in limits]
    given = [BoostRow(boost) for boost in boosts.of_user(environment.pk, user_id).order_by("ends_at", "id")]
    stored = _stored(environment, user_id)
    return {
        "stored": stored,
        "binds": binds,
        "limits": rows,
        "activity": recent,
        "lately": sorted([*recent, *in_flight_rows], key=attrgetter("at"), reverse=True),
        "in_flight": in_flight_rows,
        "in_flight_count": len(flying),
        "in_flight_says": calls_in_flight.says(flying, zone),
        "boosts": given,
        "states": list(_states(binds, stored, rows or (), given)),
        "reads_nothing": binds is None or rows is None,
        "seen": bool(recent or flying) or stored is not None or _holds(rows or ()),
    }


def _holds(rows: Iterable[LimitRow]) -> bool:
    """Of a user whose first call is in flight there is only what it holds, of limits of their own."""
    own = (Per.USER, Per.USER_FEATURE)
    return any(row.found.held for row in rows if row.found.limit.per in own)


def _boost_url(environment: Environment, user_id: str, found: BindingLimit) -> str | None:
    limit = found.limit
    if limit.per is not Per.USER:
        return None
    return give_url(environment, Per.USER, user_id, raises=raised(limit.per, limit.metric, limit.window))


def _states(
    binds: Binding | None, stored: EndUser | None, rows: Iterable[LimitRow], given: Iterable[BoostRow]
) -> Iterable[tuple[State, str]]:
    full = [row for row in rows if row.bar.state is State.FULL]
    if stored is not None and stored.blocked:
        yield State.BLOCKED, f"Blocked: {stored.blocked_reason}" if stored.blocked_reason else "Blocked"
    elif binds is not None and binds.blocked is not None:
        frozen = binds.blocked.reason_code.endswith("_FROZEN")
        yield (State.FROZEN, "Frozen") if frozen else (State.BLOCKED, binds.blocked.message)
    elif full:
        yield State.FULL, f"At {len(full)} limit{'s' if len(full) > 1 else ''}"
    else:
        yield State.ALLOWED, "May call"
    running = [row.boost for row in given if row.runs]
    if running:
        last = timezone.localtime(max(boost.ends_at for boost in running))
        yield State.BOOSTED, f"Boosted until {last:%Y-%m-%d %H:%M}"
    near = sum(row.bar.state is State.NEAR for row in rows)
    if near:
        yield State.NEAR, f"Near {near} limit{'s' if near > 1 else ''}"
