"""The form that gives a boost: for a limit in force that can be raised, to somebody who was seen, until it ends."""

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


def choices(limits: Iterable[Raisable]) -> list[Choice]:
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


def of_user(offered: list[Choice], user_id: str, binding_kinds: frozenset[str]) -> list[Choice | Choices]:
    """The kinds that bind the user first; not grouped if all do."""
    binding = [choice for choice in offered if choice[0] in binding_kinds]
    others = [choice for choice in offered if choice[0] not in binding_kinds]
    if not others:
        return [*offered]
    groups: list[Choice | Choices] = [(f"Bind {user_id} now", binding)] if binding else []
    return [*groups, (f"Do not bind {user_id} now", others)]


def before(limits: Iterable[Raisable]) -> dict[str, dict[str, Any]]:
    """For boost.js, which only shows it: of each kind the limits as they are, in units that are typed."""
    found: dict[str, dict[str, Any]] = {}
    for limit in limits:
        is_money = limit.metric is Metric.COST_USD
        kind = found.setdefault(limit.key, {"money": is_money, "before": []})
        kind["before"].append([limit.policy, limit.amount / NANO if is_money else limit.amount])
    return found


class BoostForm(AskingForm, RowForm):
    """`offered` are limits that can be raised, of the environment that the page is for."""

    offered: tuple[Raisable, ...] = ()
    # The user who is named when the form is shown or sent, and which kinds bind the user; None: unknown, or nobody.
    user_id: str = ""
    binding_kinds: frozenset[str] | None = None
    raises = forms.ChoiceField(
        label="Limit",
        widget=UnfoldAdminSelectWidget,
        help_text="The limits in force as they are without the boost. All limits of the line are raised.",
    )
    # So that a form that is sent twice gives one boost.
    once = forms.UUIDField(required=False, initial=uuid.uuid4, widget=forms.HiddenInput)
    anyway = anyway_field("Give it anyway")
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
            "extra": "On top of the limit, anew in each of its windows until the boost ends: a whole number, or USD.",
            "starts_at": "Empty: at once.",
            "reason": "Colleagues read it here and in the audit log.",
        }
        widgets = {"reason": UnfoldAdminTextInputWidget, "subject": UnfoldAdminTextInputWidget}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raises = self.fields.get("raises")
        if isinstance(raises, forms.ChoiceField):
            raises.choices = [("", "Choose a limit…"), *self._choices()]
            raises.widget.attrs["data-limits"] = json.dumps(before(self.offered))

    def _choices(self) -> list[Choice | Choices]:
        """Grouped by whether they bind the user, in the form for a user's boost."""
        offered, kinds = choices(self.offered), self.binding_kinds
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
            theirs = "; ".join(label for key, label in choices(self.offered) if key in kinds)
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
