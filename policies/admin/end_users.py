"""The list of end users, with who called lately. They are saved through end_users.py, the same way as by the API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from policies import end_users, seen
from policies.admin.end_user_forms import EndUserForm
from policies.models import EndUser
from policies.seen import Caller
from policies.standing import of_users, standing_wording
from policies.standing.of_users import Tightest
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.display import moment_of, user_link, user_url
from tenants.console.parts import State
from tenants.console.rows import BoundedPaginator, EnvironmentRowsAdmin, ListOfShownEnvironment
from tenants.models import Environment
from tenants.roles import May
from tenants.templatetags.console import state

# Of those of whom nothing is stored.
CALLERS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class CallerRow:
    """Somebody who called lately and of whom nothing is stored."""

    caller: Caller
    url: str
    tightest: SafeString


class EndUserList(ListOfShownEnvironment):
    """Reads the tightest limits of all its rows at once."""

    # Above the list, on its first page.
    callers: tuple[CallerRow, ...] = ()

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        environment = environments.shown(request)
        if environment is None:
            return
        rows: list[EndUser] = list(self.result_list)
        latest = {each.user_id: each for each in seen.callers(environment.pk)}
        others = self._not_stored(environment, latest.values())
        plans = {each.user_id: each.plan for each in others}
        for row in rows:
            said = latest.get(row.user_id)
            plans[row.user_id] = row.plan.name if row.plan else said.plan if said else ""
        found = of_users.tightest(environment, plans)
        for row in rows:
            row.tightest = found.get(row.user_id)  # type: ignore[attr-defined]
        self.result_list = rows
        self.callers = tuple(
            CallerRow(each, user_url(environment, each.user_id), _tightest(found.get(each.user_id)))
            for each in others
        )

    def _not_stored(self, environment: Environment, latest: Iterable[Caller]) -> list[Caller]:
        """Those that the search of the list would find; none where it is filtered, or on a later page."""
        if self.page_num > 1 or self.has_active_filters:
            return []
        callers = [each for each in latest if each.user_id.startswith(self.query or "")]
        names = [each.user_id for each in callers]
        stored = EndUser.objects.filter(environment=environment, user_id__in=names)
        known = set(stored.values_list("user_id", flat=True))
        return [each for each in callers if each.user_id not in known][:CALLERS_SHOWN]


def _is_full(found: Tightest | None) -> bool:
    """A limit that blocks is used up."""
    if found is None or found[0].watched:
        return False
    bar = found[1].bar(found[0].limit, watched=False)
    return bar is not None and bar.state in (State.FULL, State.OVER)


def _tightest(found: Tightest | None) -> SafeString:
    if found is None:
        return SafeString("no limit of their own")
    standing, of = found
    return SafeString(
        render_to_string(
            "console/policies/fullest.html",
            {
                "bar": of.bar(standing.limit, watched=standing.watched),
                "says": standing_wording.taken(standing, of),
            },
        )
    )


@admin.register(EndUser)
class EndUserAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_END_USERS
    form = EndUserForm
    list_display = ["user", "plan", "standing", "tightest", "since"]
    since = moment_of("created_at", "stored since")
    list_display_links = None
    list_filter = ["blocked"]
    list_select_related = ["environment__tenant", "plan"]
    search_fields = ["user_id__startswith"]
    search_help_text = "How the user_id begins"
    list_before_template = "console/find_user.html"
    fields = ["environment", "user_id", "plan", "blocked", "blocked_reason"]
    ordering = ["user_id"]
    actions = ["block", "unblock"]
    paginator = BoundedPaginator
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: EndUser | None = None) -> list[str]:
        return [] if obj is None else ["environment", "user_id"]

    def addresses_of(self, users: QuerySet[EndUser]) -> dict[object, str]:
        """Of the page that every user has, of whom something is stored or not (end_user_page.py)."""
        return {
            user.pk: user_url(user.environment, user.user_id)
            for user in users.select_related("environment__tenant")
        }

    def save_model(self, request: HttpRequest, obj: EndUser, form: Any, change: bool) -> None:
        obj.pk = self._set(request, obj, blocked=obj.blocked, reason=obj.blocked_reason).pk

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[EndUserList]:
        return EndUserList

    @admin.display(description="tightest limit that counts every feature")
    def tightest(self, user: Any) -> SafeString:
        return _tightest(user.tightest)

    @admin.display(description="user", ordering="user_id")
    def user(self, user: EndUser) -> SafeString:
        return user_link(user.environment, user.user_id)

    @admin.display(description="state", ordering="blocked")
    def standing(self, user: Any) -> SafeString:
        if not user.blocked:
            return (
                state(State.FULL, "At a limit")
                if _is_full(user.tightest)
                else state(State.ALLOWED, "May call")
            )
        return state(State.BLOCKED, f"Blocked: {user.blocked_reason}" if user.blocked_reason else "Blocked")

    def delete_model(self, request: HttpRequest, obj: EndUser) -> None:
        end_users.remove_end_user(obj.environment, obj.user_id, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[EndUser]) -> None:
        for user in queryset.select_related("environment").order_by("pk"):
            self.delete_model(request, user)

    @admin.action(description="Block", permissions=["change"])
    def block(self, request: HttpRequest, queryset: QuerySet[EndUser]) -> None:
        self._set_all(request, queryset, blocked=True)

    @admin.action(description="Unblock", permissions=["change"])
    def unblock(self, request: HttpRequest, queryset: QuerySet[EndUser]) -> None:
        self._set_all(request, queryset, blocked=False)

    def _set_all(self, request: HttpRequest, queryset: QuerySet[EndUser], *, blocked: bool) -> None:
        for row in self.changeable(request, queryset).order_by("pk"):
            with transaction.atomic():
                # Locked and then read, so that the plan it is saved with is the one it has.
                self.lock(row)
                for user in EndUser.objects.select_related("environment", "plan").filter(pk=row.pk):
                    self._set(request, user, blocked=blocked)

    def _set(
        self, request: HttpRequest, user: EndUser, *, blocked: bool, reason: str | None = None
    ) -> EndUser:
        plan_name = None if user.plan is None else user.plan.name
        return end_users.set_end_user(
            user.environment,
            user.user_id,
            plan_name=plan_name,
            blocked=blocked,
            blocked_reason=reason,
            actor=actor_of(request),
        )
