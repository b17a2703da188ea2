"""Boosts in the console: those that run, are to come and are over; given and ended through policies/boosts.py."""

from __future__ import annotations

import uuid
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from policies import activity, boosts
from policies.admin import boost_ends
from policies.admin.boost_forms import OF_DECISION, Binds, BoostForm, leading
from policies.models import BlockedDecision, Boost
from policies.standing import binding
from tenants.console import environments
from tenants.console.access import actor_of, may
from tenants.console.display import moment, moment_of, user_link, user_url, who_of
from tenants.console.pages import rendered
from tenants.console.parts import State
from tenants.console.row_ids import is_row_id
from tenants.console.rows import ONLY_SAVE, BoundedPaginator, EnvironmentRowsAdmin
from tenants.lengths import NAME_LENGTH_MAX
from tenants.roles import May
from tenants.templatetags.console import state
from usage import wording
from usage.amounts import Per
from usage.boosts import raised
from usage.counting import in_flight
from usage.instants import to_ms
from usage.metrics import Metric
from usage.windows import Window

# On the request: who is named, which limits bind them, and what boosts that run add already, theirs and shared ones.
_NAMED = "_named"


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("running", "Running"), ("coming", "To come"), ("ended", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Boost]) -> QuerySet[Boost]:
        now = timezone.now()
        current = Q(ended_at=None, ends_at__gt=now)
        found = {
            "running": current & (Q(starts_at=None) | Q(starts_at__lte=now)),
            "coming": current & Q(starts_at__gt=now),
            "ended": ~current,
        }
        return queryset.filter(found[value]) if (value := self.value()) in found else queryset


@admin.register(Boost)
class BoostAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_POLICIES
    form = BoostForm
    list_display = ["linked", "whom", "standing", "reason", "starts", "ends", "by"]
    # The first column is one itself, and looks like it.
    list_display_links = None
    list_filter = [StateFilter]
    list_select_related = ["environment__tenant"]
    search_fields = ["subject__exact", "reason"]
    search_help_text = "The exact user_id, feature or plan, or a part of the reason"
    ordering = ["-ends_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False
    actions = ["end_now"]
    shown_fields = ("what", *list_display[1:], "given", "over_by", "over")
    by, over_by = who_of("given_by", "given by"), who_of("ended_by", "ended by")
    given, over = moment_of("given_at", "given at"), moment_of("ended_at", "ended at")

    class Media:
        js = ["tokvigil/boost.js"]

    def get_urls(self) -> list[Any]:
        end = path(
            "<path:object_id>/end/", self.admin_site.admin_view(self.end_view), name="policies_boost_end"
        )
        return [end, *super().get_urls()]

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = environments.shown(request)
        may_end = shown is not None and may(request, self.to_change, shown.tenant_id)
        return [*self.list_display, *(["offered"] if may_end else [])]

    def get_fields(self, request: HttpRequest, obj: Boost | None = None) -> Any:
        return BoostForm.Meta.fields if obj is None else self.shown_fields

    def get_readonly_fields(self, request: HttpRequest, obj: Boost | None = None) -> Any:
        return () if obj is None else self.shown_fields

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """None is edited; of the list some can be ended."""
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was given stays readable."""
        return False

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        shown = environments.shown(request)
        if obj is None and shown is not None:
            per = request.GET.get("per")
            limits = [limit for limit in boosts.raisable(shown.pk) if per in (None, limit.per)]
            form.user_id, form.binds, form.running = getattr(request, _NAMED, ("", None, {}))  # type: ignore[attr-defined]
            form.offered = tuple(leading(limits, form.binds))  # type: ignore[attr-defined]
            form.zone = ZoneInfo(shown.tenant.timezone)  # type: ignore[attr-defined]
        return form

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        shown = environments.shown(request)
        named = str(request.POST.get("subject", request.GET.get("subject", "")))
        user_id = named if len(named) <= NAME_LENGTH_MAX and "\x00" not in named else ""
        if shown is not None:
            # Evaluated before Django opens the transaction of the form.
            binds = binding_limits(shown.pk, user_id) if user_id else None
            running = boosts.extras(shown.pk, to_ms(timezone.now()), only_user=user_id)
            setattr(request, _NAMED, (user_id, binds, running))
        title = "Give a boost" if shown is None else f"Give a boost in {shown.slug}"
        return super().add_view(request, form_url, {"title": title, **ONLY_SAVE, **(extra_context or {})})

    def response_add(self, request: HttpRequest, obj: Boost, post_url_continue: Any = None) -> HttpResponse:
        """Back to the decision that it was given for, else to whom it was given."""
        decision = request.GET.get(OF_DECISION, "")
        blocked = BlockedDecision.objects.filter(environment=obj.environment)
        if is_row_id(decision) and blocked.filter(pk=decision).exists():
            return HttpResponseRedirect(reverse("admin:policies_blockeddecision_change", args=[decision]))
        if obj.per == Per.USER:
            return HttpResponseRedirect(user_url(obj.environment, obj.subject))
        return HttpResponseRedirect(reverse("admin:policies_boost_changelist"))

    def save_model(self, request: HttpRequest, obj: Boost, form: Any, change: bool) -> None:
        if change:
            return
        obj.boost_id = form.cleaned_data["once"] or obj.boost_id
        try:
            _, is_new = boosts.give_once(obj, actor=actor_of(request))
        except boosts.AlreadyGiven:
            # Sent again with other content, such as after going back: another boost.
            obj.boost_id, is_new = uuid.uuid4(), True
            boosts.give(obj, actor=actor_of(request))
        said = (
            f"The boost is given: {form.effect}, {lasts(obj)}." if is_new else "This boost was given already."
        )
        self.message_user(request, said, messages.SUCCESS)

    @admin.action(description="End now", permissions=["change"])
    def end_now(self, request: HttpRequest, queryset: QuerySet[Boost]) -> None:
        ended = sum(
            boosts.end_now(boost.pk, boost.environment, actor=actor_of(request))
            for boost in self.changeable(request, queryset).select_related("environment").order_by("pk")
        )
        self.message_user(
            request, f"{ended} ended. The limits are the policies' again." if ended else "Over already."
        )

    def end_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks; a POST does it."""
        boost: Boost | None = self.get_object(request, unquote(object_id))
        if boost is None:
            raise Http404("There is no such boost.")
        if not self.may_change(request, boost):
            raise PermissionDenied
        back = reverse("admin:policies_boost_changelist")
        if request.method == "POST":
            ended = boosts.end_now(boost.pk, boost.environment, actor=actor_of(request))
            self.message_user(
                request,
                f"The boost {says(boost)} is ended, from the very next call on."
                if ended
                else "Over already.",
            )
            return HttpResponseRedirect(back)
        current = boosts.current(boost.environment_id)
        return rendered(
            request,
            "console/end_boost.html",
            f"End the boost {says(boost)}",
            opts=self.opts,
            boost=boost if current.filter(pk=boost.pk).exists() else None,
            says=says(boost),
            whom=self.whom(boost),
            standing=standing(boost),
            is_to_come=boost.started_at > timezone.now(),
            others=boosts.alike(boost).count(),
            back=back,
        )

    @admin.display(description="actions")
    def offered(self, boost: Boost) -> SafeString | str:
        """Shown to who may do it; of a boost that is over nothing is."""
        if boost.over_at <= timezone.now():
            return ""
        return format_html(
            '<a href="{}">End…<span class="tv-hidden"> <bdi>{} {}</bdi></span></a>',
            reverse("admin:policies_boost_end", args=[boost.pk]),
            says(boost),
            boost.subject,
        )

    @admin.display(description="boost")
    def what(self, boost: Boost) -> str:
        return says(boost)

    @admin.display(description="boost")
    def linked(self, boost: Boost) -> SafeString:
        url = reverse("admin:policies_boost_change", args=[boost.pk])
        return format_html('<a href="{}">{}</a>', url, says(boost))

    @admin.display(description="who")
    def whom(self, boost: Boost) -> SafeString | str:
        if boost.per == Per.USER:
            return user_link(boost.environment, boost.subject)
        return format_html("{} <bdi>{}</bdi>", boost.per, boost.subject) if boost.subject else "everybody"

    @admin.display(description="state")
    def standing(self, boost: Boost) -> SafeString:
        return standing(boost)

    @admin.display(description="starts", ordering="given_at")
    def starts(self, boost: Boost) -> SafeString:
        return moment(boost.started_at)

    @admin.display(description="ends", ordering="ends_at")
    def ends(self, boost: Boost) -> SafeString:
        return moment(boost.over_at)


def says(boost: Boost) -> str:
    """`+20 requests a day`"""
    metric, window = Metric(boost.metric), Window(boost.window)
    return f"+{wording.allowance((metric, window, Per(boost.per), ()), boosts.ref_of(boost).extra)}"


def lasts(boost: Boost) -> str:
    """`anew each day until Friday 2026-12-04 00:00 UTC: in all 120 requests more, over 6 days`"""
    until = f"until {localtime(boost.ends_at):%A %Y-%m-%d %H:%M %Z}"
    window, metric = Window(boost.window), Metric(boost.metric)
    if window is Window.TOTAL:
        return until
    zone = ZoneInfo(boost.environment.tenant.timezone)
    met = boost_ends.windows_met(window, boost.started_at, boost.ends_at, zone)
    if met is None:
        return f"anew each {window} {until}"
    in_all = wording.amount(metric, boosts.ref_of(boost).extra * met)
    return f"anew each {window} {until}: in all {in_all} more, over {wording.counted(met, window.value)}"


def standing(boost: Boost) -> SafeString:
    now = timezone.now()
    if boost.over_at <= now:
        return state(State.QUIET, "Ended early" if boost.ended_at else "Over")
    return state(State.QUIET, "To come") if boost.started_at > now else state(State.BOOSTED, "Running")


def binding_limits(environment_id: int, user_id: str) -> Binds | None:
    """Those that a boost of the user would raise, by the calls they made lately; None: unknown."""
    recent, flying = activity.of_user(environment_id, user_id), in_flight.of_user(environment_id, user_id)
    plan, features = activity.said(recent, flying)
    found = binding.of_user(environment_id, user_id, plan=plan, features=features)
    if found is None or found.limits is None:
        return None
    return tuple(
        (raised(each.limit.per, each.limit.metric, each.limit.window), each.policy.name)
        for each in found.limits
        if each.limit.per is Per.USER
    )
