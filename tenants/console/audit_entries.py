"""Entries of the audit log as the console shows them, and which of them a person may see.

The log's own pages, the history of each object and the overview take their rows from here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.timezone import localtime

from audit import wording
from audit.models import Entry
from audit.wording import Sentence
from tenants import sign_ins
from tenants.console import pages
from tenants.console.access import is_superuser, tenants_where
from tenants.roles import May


@dataclass(frozen=True, slots=True)
class Row:
    """`object_url` is empty if what was changed has no page, or is gone."""

    entry: Entry
    sentence: Sentence
    where: str
    url: str
    object_url: str

    @property
    def day(self) -> date:
        """In the zone of the page."""
        return localtime(self.entry.at).date()


def visible(request: HttpRequest) -> QuerySet[Entry]:
    """Those of the tenants whose log the person may see, and their members' sign-ins; for superusers all."""
    entries = Entry.objects.all()
    if is_superuser(request):
        return entries
    ours = tenants_where(request, May.SEE_AUDIT)
    return entries.filter(Q(tenant_id__in=ours) | sign_ins.of_members(ours))


def about(rows: Iterable[Model]) -> Q:
    """What was done to any of them."""
    ids: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        ids[row._meta.label_lower].append(str(row.pk))
    found = Q(pk__in=[])
    for kind, of_kind in ids.items():
        found |= Q(target_type=kind, target_id__in=of_kind)
    return found


def rows(entries: Iterable[Entry]) -> list[Row]:
    """One query for each kind of object in them, however many entries there are."""
    found = list(entries)
    addresses = _addresses(found)
    return [
        Row(
            entry=entry,
            sentence=wording.sentence(entry),
            where=wording.where(entry),
            url=reverse("admin:audit_entry_change", args=[entry.pk]),
            object_url=addresses.get((entry.target_type, entry.target_id), ""),
        )
        for entry in found
    ]


def address_of(row: Model) -> str:
    """Of its page; empty if it has none."""
    return _of_model(type(row), [row.pk]).get(row.pk, "")


def _addresses(entries: Sequence[Entry]) -> dict[tuple[str, str], str]:
    """The address of each object that has a page and is still there. That page checks who may see it."""
    ids: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        ids[entry.target_type].add(entry.target_id)
    return {
        (kind, str(pk)): url
        for kind in ids
        if (model := _model(kind)) is not None
        for pk, url in _of_model(model, _readable(model, ids[kind])).items()
    }


def _of_model(model: type[Model], ids: Iterable[object]) -> Mapping[object, str]:
    """By primary key. Rows whose page is not that of their form are looked up by their admin (`addresses_of`)."""
    rows: QuerySet[Model] = model._base_manager.filter(pk__in=ids)
    look_up = getattr(admin.site._registry.get(model), "addresses_of", None)
    if look_up is not None:
        found: Mapping[object, str] = look_up(rows)
        return found
    address = _address(model)
    return {pk: reverse(address, args=[pk]) for pk in rows.values_list("pk", flat=True)} if address else {}


def _model(kind: str) -> type[Model] | None:
    """The log outlives the models that it names."""
    try:
        return apps.get_model(kind)
    except (LookupError, ValueError):
        return None


def _address(model: type[Model]) -> str:
    """The name of that of its pages; empty if it has none."""
    label = model._meta.label_lower
    if admin.site.is_registered(model):
        return f"admin:{label.replace('.', '_')}_change"
    return next((f"admin:{page.name}" for page in pages.declared().values() if page.of == label), "")


def _readable(model: type[Model], ids: Iterable[str]) -> list[object]:
    found = []
    for each in ids:
        try:
            found.append(model._meta.pk.to_python(each))
        except ValidationError:
            continue
    return found
