"""The filters of the audit log. They offer what is in the entries that the person may see, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from audit import wording
from audit.log import action_label
from audit.models import Entry, chain_name
from tenants.console import environments
from tenants.models import Tenant

# A filter offers what the newest entries hold; a link may ask for more.
ENTRIES_LOOKED_AT = 10_000
CHOICES_MAX = 100
TEXT_LENGTH_MAX = 200
INSTALLATION = "installation"


class Choice(forms.ChoiceField):
    """Takes what it does not offer too: whatever is not there is simply not found."""

    def __init__(self, label: str, anything: str) -> None:
        super().__init__(label=label, required=False, widget=UnfoldAdminSelectWidget)
        self.anything = anything

    def offer(self, found: Iterable[tuple[str, str]], chosen: str) -> None:
        offered = dict(found)
        if chosen and chosen not in offered:
            offered[chosen] = chosen[:TEXT_LENGTH_MAX]
        self.choices = [("", self.anything), *sorted(offered.items(), key=lambda each: each[1].lower())]

    def valid_value(self, value: Any) -> bool:
        return "\0" not in value


class Day(forms.DateField):
    def __init__(self, label: str) -> None:
        widget = UnfoldAdminTextInputWidget(attrs={"type": "date"})
        super().__init__(
            label=label, required=False, widget=widget, error_messages={"invalid": "Not a date."}
        )


class AuditFilters(forms.Form):
    place = Choice("Environment", "All")
    actor = Choice("Who", "Anyone")
    action = Choice("Action", "Any")
    kind = Choice("Object", "Any")
    chain = Choice("Tenant", "All")
    since = Day("From day")
    until = Day("Until day")
    find = forms.CharField(
        label="Request id, address or name",
        required=False,
        max_length=TEXT_LENGTH_MAX,
        widget=UnfoldAdminTextInputWidget,
    )

    def __init__(self, request: HttpRequest, entries: QuerySet[Entry]) -> None:
        given = {name: request.GET.get(name, "") for name in self.base_fields}
        super().__init__(given, auto_id="filter_%s", label_suffix="")
        newest = entries.order_by("-id")[:ENTRIES_LOOKED_AT]
        offers = {
            "actor": [(actor, wording.who(actor)) for actor in _values(newest, "actor")],
            "action": [(action, action_label(action)) for action in _values(newest, "action")],
            "kind": [(kind, wording.kind(kind)) for kind in _values(newest, "target_type")],
            "place": [(str(each), str(each)) for each in environments.offered(request)],
            "chain": _chains(newest),
        }
        for name, found in offers.items():
            field = self.fields[name]
            assert isinstance(field, Choice)
            field.offer(found, self.data[name])
        chains = [chain for chain, _ in offers["chain"]]
        if len(chains) < 2 and not self.data["chain"]:
            del self.fields["chain"]
        self.one_chain: str | None = self.data["chain"] or (chains[0] if len(chains) == 1 else None)

    @property
    def active(self) -> dict[str, str]:
        """What was chosen or typed, by the label of its field; also what is wrong."""
        return {
            str(field.label): str(self.data[name]) for name, field in self.fields.items() if self.data[name]
        }

    @property
    def set_count(self) -> int:
        return len(self.active)

    @property
    def query(self) -> str:
        """Of an address that has the same filters."""
        return self._query(self.data["place"])

    @property
    def query_of_all_places(self) -> str:
        """The same of all environments."""
        return self._query("")

    def query_of_place(self, place: str) -> str:
        """The same of this environment alone."""
        return self._query(place)

    def _query(self, place: str) -> str:
        given = {**self.data, "place": place}
        return urlencode({name: given[name] for name in self.fields if given[name]})

    def applied_to(self, entries: QuerySet[Entry]) -> QuerySet[Entry]:
        """None while something that was typed cannot be read."""
        if not self.is_valid():
            return entries.none()
        given = {name: value for name, value in self.cleaned_data.items() if value}
        columns = {"actor": "actor", "action": "action", "kind": "target_type"}
        entries = entries.filter(**{column: given[name] for name, column in columns.items() if name in given})
        if "place" in given:
            entries = entries.filter(_in_environment(given["place"]))
        if "chain" in given:
            entries = entries.filter(of_chain(given["chain"]))
        if "since" in given:
            entries = entries.filter(at__gte=_midnight(given["since"]))
        if "until" in given:
            entries = entries.filter(at__lt=_midnight(given["until"] + timedelta(days=1)))
        if "find" in given:
            entries = entries.filter(_found(given["find"]))
        return entries

    def clean_until(self) -> date | None:
        until: date | None = self.cleaned_data["until"]
        if until == date.max:
            raise forms.ValidationError("Not a date.")
        return until


def _values(entries: QuerySet[Entry], column: str) -> list[str]:
    inside = Entry.objects.filter(pk__in=entries.values("pk")).order_by(column)
    return list(inside.values_list(column, flat=True).distinct()[:CHOICES_MAX])


def _chains(entries: QuerySet[Entry]) -> list[tuple[str, str]]:
    """Deleted tenants are named by their id."""
    inside = Entry.objects.filter(pk__in=entries.values("pk")).order_by("tenant_id")
    ids = list(inside.values_list("tenant_id", flat=True).distinct()[:CHOICES_MAX])
    slugs = dict(Tenant.objects.filter(pk__in=[each for each in ids if each]).values_list("pk", "slug"))
    return [
        (INSTALLATION, "the installation") if each is None else (str(each), slugs.get(each, chain_name(each)))
        for each in ids
    ]


def _in_environment(path: str) -> Q:
    """What happened to the environment, and to what lives in it."""
    tenant, _, slug = path.partition("/")
    ours = Tenant.objects.filter(slug=tenant).values("pk")
    itself = Q(target_type="tenants.environment", target_name=path)
    return Q(tenant_id__in=ours) & (Q(data__environment=slug) | itself)


def of_chain(chain: str) -> Q:
    if chain == INSTALLATION:
        return Q(tenant_id=None)
    is_id = chain.isascii() and chain.isdecimal() and len(chain) < 19
    return Q(tenant_id=int(chain)) if is_id else Q(pk__in=[])


def _found(text: str) -> Q:
    exact = Q(request_id=text) | Q(address=text) | Q(target_id=text)
    return exact | Q(target_name__icontains=text) | Q(actor__icontains=text)


def _midnight(day: date) -> datetime:
    """In the zone of the page."""
    return timezone.make_aware(datetime.combine(day, time.min))
