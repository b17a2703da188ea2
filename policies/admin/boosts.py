"""Boosts in the console: those that run, are to come and are over; given and ended through policies/boosts.py."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from decimal import Decimal
from itertools import groupby
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from policies import boosts, seen
from policies.admin import boost_ends
from policies.admin.boost_ends import DayOrMomentField, Until
from policies.boosts import Raisable
from policies.models import BlockedDecision, Boost
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.display import moment, moment_of, user_link, user_url, who_of
from tenants.console.forms import RowForm
from tenants.console.parts import State
from tenants.console.rows import BoundedPaginator, EnvironmentRowsAdmin
from tenants.models import Environment
from tenants.roles import May
from tenants.templatetags.console import state
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window


def choices(limits: Iterable[Raisable]) -> list[tuple[str, str]]:
    """A kind of limits each, with the limits in force: what stands before a boost."""
    return [
        (
            key,
            " · ".join(
                f"{wording.limit_of(of.metric, of.window, of.per, of.amount)} ({of.policy})" for of in kind
            ),
        )
        for key, kind in groupby(limits, key=lambda limit: limit.key)
    ]


def before(limits: Iterable[Raisable]) -> dict[str, dict[str, Any]]:
    """For boost.js, which only shows it: of each kind the limits as they are, in units that are typed."""
    found: dict[str, dict[str, Any]] = {}
    for limit in limits:
        is_money = limit.metric is Metric.COST_USD
        kind = found.setdefault(limit.key, {"money": is_money, "before": []})
        kind["before"].append([limit.policy, limit.amount / NANO if is_money else limit.amount])
    return found


class BoostForm(RowForm):
    """`offered` are limits that can be raised, by the environment that the page is for."""

    offered: tuple[Raisable, ...] = ()
    raises = forms.ChoiceField(
        label="Limit",
        widget=UnfoldAdminSelectWidget,
        help_text="The limits in force as they are without the boost. All limits of the line are raised.",
    )
    # So that a form that is sent twice gives one boost.
    once = forms.UUIDField(required=False, initial=uuid.uuid4, widget=forms.HiddenInput)
    # Shown only when it is needed.
    anyway = forms.BooleanField(label="Give it anyway", required=False, widget=forms.HiddenInput)
    until = forms.ChoiceField(
        label="Ends", choices=boost_ends.CHOICES, required=False, widget=UnfoldAdminSelectWidget
    )
    ends_at = DayOrMomentField(
        label="On", required=False, help_text="A day alone means until its end, in the zone of the tenant."
    )

    class Meta:
        model = Boost
        fields = [
            "environment",
            "raises",
            "subject",
            "anyway",
            "extra",
            "until",
            "ends_at",
            "starts_at",
            "reason",
            "once",
        ]
        labels = {"subject": "Who", "extra": "Extra", "starts_at": "Starts"}
        help_texts = {
            "subject": "The user_id, feature or plan, exactly as calls name it; empty for everybody together.",
            "extra": "On top of the limit: a whole number, or USD for a budget.",
            "starts_at": "Empty: at once.",
            "reason": "Colleagues read it here and in the audit log.",
        }
        widgets = {"reason": UnfoldAdminTextInputWidget, "subject": UnfoldAdminTextInputWidget}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raises = self.fields.get("raises")
        if isinstance(raises, forms.ChoiceField):
            raises.choices = [("", "Choose a limit…"), *choices(self.offered)]
            raises.widget.attrs["data-limits"] = json.dumps(before(self.offered))

    def clean(self) -> dict[str, Any]:
        """`boosts.clean` says what is wrong, not the constraints of the table."""
        key = self.cleaned_data.get("raises")
        for limit in self.offered:
            if limit.key == key:
                self.instance.per, self.instance.metric, self.instance.window = (
                    limit.per,
                    limit.metric,
                    limit.window,
                )
        if self.instance._state.adding and "environment" in self.cleaned_data:
            self._clean_subject()
            self._clean_end()
        return self.cleaned_data

    def _clean_subject(self) -> None:
        """Whoever was never seen is perhaps misspelt."""
        given, per = self.cleaned_data, self.instance.per
        named = [given.get("subject", "")] if per else []
        unseen = seen.unseen(given["environment"], Per(per or Per.USER), named)
        if unseen or given.get("anyway"):
            self.fields["anyway"].widget = UnfoldBooleanWidget()
        if unseen and not given.get("anyway"):
            self.add_error("subject", f"{unseen[0].says} Mend it, or tick “Give it anyway”.")

    def _clean_end(self) -> None:
        given = self.cleaned_data
        until, on = given.get("until"), given.get("ends_at")
        if until and on:
            self.add_error("ends_at", "Leave the day empty, or choose “On the day below”.")
        elif until:
            zone = ZoneInfo(given["environment"].tenant.timezone)
            given["ends_at"] = boost_ends.ends_at(
                Until(until), given.get("starts_at") or timezone.now(), zone
            )
        elif on is None and "ends_at" not in self.errors:
            self.add_error("ends_at", "Say when it ends: choose above, or give a day.")

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors and self.instance._state.adding:
            try:
                boosts.clean(self.instance)
            except ValidationError as error:
                self.add_error(None, error)

    @property
    def effect(self) -> str:
        """`50 → 70 requests a day, each user (Free plan)`"""
        boost = self.instance
        extra = boosts.ref_of(boost).extra
        return "; ".join(
            f"{wording.number(limit.metric, limit.amount)} → "
            f"{wording.limit_of(limit.metric, limit.window, limit.per, limit.amount + extra)} ({limit.policy})"
            for limit in self.offered
            if limit.key == boosts.key_of(boost)
        )


# In the address: the id of the blocked call that it is given for.
OF_DECISION = "decision"
ID_DIGITS_MAX = 19
# Of the page: there is nothing to go on editing.
_GIVING = {"title": "Give a boost", "show_save_and_add_another": False, "show_save_and_continue": False}


def give_url(
    environment: Environment,
    per: Per,
    subject: str,
    *,
    raises: str = "",
    extra: int | Decimal | None = None,
    decision: int | None = None,
) -> str:
    """Of the form, filled in: `raises` is the key of a kind of limits, `extra` as it is typed."""
    given = {
        environments.PARAMETER: str(environment),
        "per": per.value,
        "subject": subject,
        "raises": raises,
        "extra": extra,
        OF_DECISION: decision,
    }
    query = urlencode({name: value for name, value in given.items() if value not in (None, "")})
    return f"{reverse('admin:policies_boost_add')}?{query}"


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
    list_display = ["what", "whom", "standing", "reason", "starts", "ends", "by"]
    list_filter = [StateFilter]
    list_select_related = ["environment__tenant"]
    search_fields = ["subject__exact", "reason"]
    search_help_text = "The exact user_id, feature or plan, or a part of the reason"
    ordering = ["-ends_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False
    actions = ["end_now"]
    shown_fields = (*list_display, "given", "over_by", "over")
    by, over_by = who_of("given_by", "given by"), who_of("ended_by", "ended by")
    given, over = moment_of("given_at", "given at"), moment_of("ended_at", "ended at")

    class Media:
        js = ["tokvigil/boost.js"]

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
            limits = boosts.raisable(shown.pk)
            form.offered = tuple(  # type: ignore[attr-defined]
                limit for limit in limits if per in (None, limit.per)
            )
        return form

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().add_view(request, form_url, {**_GIVING, **(extra_context or {})})

    def response_add(self, request: HttpRequest, obj: Boost, post_url_continue: Any = None) -> HttpResponse:
        """Back to the decision that it was given for, else to whom it was given."""
        decision = request.GET.get(OF_DECISION, "")
        blocked = BlockedDecision.objects.filter(environment=obj.environment)
        if decision.isdecimal() and len(decision) < ID_DIGITS_MAX and blocked.filter(pk=decision).exists():
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
        said = f"The boost is given: {form.effect}." if is_new else "This boost was given already."
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

    @admin.display(description="boost")
    def what(self, boost: Boost) -> str:
        return says(boost)

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
    return f"+{wording.allowance(metric, window, boosts.ref_of(boost).extra)}"


def standing(boost: Boost) -> SafeString:
    now = timezone.now()
    if boost.over_at <= now:
        return state(State.QUIET, "Ended early" if boost.ended_at else "Over")
    return state(State.QUIET, "To come") if boost.started_at > now else state(State.BOOSTED, "Running")
