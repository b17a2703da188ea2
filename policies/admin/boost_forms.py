"""The form that gives a boost: for a limit in force that can be raised, to somebody who was seen, until it ends."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from policies import boosts, seen
from policies.admin import boost_ends
from policies.admin.asking_again import AskingForm, anyway_field, ask_about_unseen, ask_again
from policies.admin.boost_ends import DayOrMomentField, Until
from policies.boosts import Raisable
from policies.models import Boost
from tenants.console import environments
from tenants.console.forms import RowForm
from tenants.models import Environment
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import NANO

# In the address: the id of the blocked call that it is given for.
OF_DECISION = "decision"
Choice = tuple[str, str]
Choices = tuple[str, list[Choice]]


# Limits that bind a user, the tightest first: the key of its kind, and the name of its policy.
Binds = tuple[tuple[str, str], ...]
# What boosts that run add already: by the key of its kind, and the subject.
Running = Mapping[tuple[str, str], int]


def leading(limits: list[Raisable], binds: Binds | None) -> list[Raisable]:
    """Those that bind the user first, the tightest at the head; the others as they are. Kinds stay together."""
    places = {bind: place for place, bind in enumerate(binds or ())}
    kinds = {key: place for place, key in enumerate(dict.fromkeys(key for key, _ in places))}
    for limit in limits:
        kinds.setdefault(limit.key, len(kinds))
    return sorted(
        limits,
        key=lambda limit: (kinds[limit.key], places.get((limit.key, limit.policy), len(places))),
    )


def choices(limits: Iterable[Raisable], binds: Binds | None = None) -> list[Choice]:
    """A kind of limits each, with the limits in force: what stands before a boost."""
    return [(key, _line(list(kind), binds)) for key, kind in groupby(limits, key=lambda limit: limit.key)]


def _line(kind: list[Raisable], binds: Binds | None) -> str:
    """What binds the user, then what is raised with it."""
    binding = [limit for limit in kind if (limit.key, limit.policy) in (binds or ())]
    others = [limit for limit in kind if limit not in binding]
    if not binding or not others:
        return " · ".join(map(_limit, kind))
    return f"{' · '.join(map(_limit, binding))} · raised with it: {' · '.join(map(_limit, others))}"


def _limit(of: Raisable) -> str:
    return f"{wording.limit_of(of.kind, of.amount)} ({of.policy})"


def of_user(offered: list[Choice], user_id: str, kinds: frozenset[str]) -> list[Choice | Choices]:
    """The kinds that bind the user first; not grouped if all do."""
    binding = [choice for choice in offered if choice[0] in kinds]
    others = [choice for choice in offered if choice[0] not in kinds]
    if not others:
        return [*offered]
    groups: list[Choice | Choices] = [(f"Bind {user_id} now", binding)] if binding else []
    return [*groups, (f"Do not bind {user_id} now", others)]


def before(
    limits: Sequence[Raisable], running: Running, now: datetime, zone: ZoneInfo
) -> dict[str, dict[str, Any]]:
    """For boost.js, which only shows it: of each kind the limits as they are, in units that are typed.

    `running`: what boosts add already, by subject. `windows`: how many windows a boost until then meets, of each end
    that can be chosen.
    """
    found: dict[str, dict[str, Any]] = {}
    # There may be thousands of limits, and minutes are many to count.
    windows = {window: boost_ends.windows(window, now, zone) for window in {each.window for each in limits}}
    for limit in limits:
        unit = NANO if limit.metric is Metric.COST_USD else 1
        kind = found.setdefault(
            limit.key,
            {
                "money": limit.metric is Metric.COST_USD,
                "before": [],
                "per": wording.window(limit.metric, limit.window),
                "running": {
                    whose: extra / unit for (key, whose), extra in running.items() if key == limit.key
                },
                "windows": windows[limit.window],
            },
        )
        kind["before"].append([limit.policy, limit.amount / unit])
    return found


class BoostForm(AskingForm, RowForm):
    """`offered` are limits that can be raised, of the environment that the page is for, as `leading` puts them."""

    offered: tuple[Raisable, ...] = ()
    zone: ZoneInfo = ZoneInfo("UTC")
    # The user who is named when the form is shown or sent, and which limits bind the user; None: unknown, or nobody.
    user_id: str = ""
    binds: Binds | None = None
    running: Running = {}
    raises = forms.ChoiceField(
        label="Limit",
        widget=UnfoldAdminSelectWidget,
        help_text="The limits in force as they are without the boost. All limits of the line are raised.",
    )
    # So that a form that is sent twice gives one boost.
    once = forms.UUIDField(required=False, initial=uuid.uuid4, widget=forms.HiddenInput)
    anyway = anyway_field("Give it anyway")
    until = forms.ChoiceField(label="Ends", required=False, widget=UnfoldAdminSelectWidget)
    ends_at = DayOrMomentField(label="On", required=False)

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
            "extra": "A whole number, or USD, on top of the limit in each of its days, months and so on until "
            "the boost ends: 20 on a limit a day is 20 more each day, not 20 in all.",
            "starts_at": "Empty: at once.",
            "reason": "Colleagues read it here and in the audit log.",
        }
        widgets = {"reason": UnfoldAdminTextInputWidget, "subject": UnfoldAdminTextInputWidget}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raises = self.fields.get("raises")
        if isinstance(raises, forms.ChoiceField):
            raises.choices = [("", "Choose a limit…"), *self._choices()]
            now = timezone.now()
            limits = before(self.offered, self.running, now, self.zone)
            raises.widget.attrs["data-limits"] = json.dumps(limits)
            self._say_when(now)

    def _say_when(self, now: datetime) -> None:
        until, on = self.fields["until"], self.fields["ends_at"]
        assert isinstance(until, forms.ChoiceField)
        until.choices = boost_ends.choices(now, self.zone)
        on.help_text = f"A day alone means until its end, 23:59 {now.astimezone(self.zone):%Z}."

    @property
    def binding_kinds(self) -> frozenset[str] | None:
        return None if self.binds is None else frozenset(key for key, _ in self.binds)

    def _choices(self) -> list[Choice | Choices]:
        """Grouped by whether they bind the user, in the form for a user's boost."""
        offered, kinds = choices(self.offered, self.binds), self.binding_kinds
        for_user = {limit.per for limit in self.offered} == {Per.USER}
        return of_user(offered, self.user_id, kinds) if for_user and kinds is not None else [*offered]

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
            self._clean_binds()
            self._clean_end()
        return self.cleaned_data

    def _clean_subject(self) -> None:
        """Whoever was never seen is perhaps misspelt."""
        given, per = self.cleaned_data, self.instance.per
        named = [given.get("subject", "")] if per else []
        ask_about_unseen(self, "subject", seen.unseen(given["environment"], Per(per or Per.USER), named))

    def _clean_binds(self) -> None:
        """A boost of a limit that does not bind the user changes nothing for them."""
        kinds, doubt = self.binding_kinds, ""
        if self.errors or kinds is None or self.instance.per != Per.USER:
            return
        if boosts.key_of(self.instance) not in kinds:
            theirs = "; ".join(label for key, label in choices(self.offered, self.binds) if key in kinds)
            binds = f"These do: {theirs}." if theirs else "None of the limits that can be raised does."
            doubt = f"It does not bind {self.user_id} now. {binds}"
        ask_again(self, "raises", doubt, "Choose another")

    def _clean_end(self) -> None:
        given = self.cleaned_data
        until, on = given.get("until"), given.get("ends_at")
        if until and on:
            self.add_error("ends_at", "Leave the day empty, or choose “On the day below”.")
        elif until:
            zone = ZoneInfo(given["environment"].tenant.timezone)
            given["ends_at"] = boost_ends.ends_at(Until(until), timezone.now(), zone, given.get("starts_at"))
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
        """`50 → 70 requests a day, each user (Free plan)`; what binds the user first. With boosts that ran before."""
        key, extra = boosts.key_of(self.instance), boosts.ref_of(self.instance).extra
        raised = [limit for limit in self.offered if limit.key == key]
        before = self.running.get((key, self.instance.subject), 0)
        said = "; ".join(
            f"{wording.number(limit.metric, limit.amount + before)} → "
            f"{wording.limit_of(limit.kind, limit.amount + before + extra)} ({limit.policy})"
            for limit in raised
        )
        if not before or not raised:
            return said
        return f"{said}, {wording.number(raised[0].metric, before)} of it by boosts that ran already"


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
