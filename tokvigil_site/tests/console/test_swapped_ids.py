"""Whoever sends the console's own forms and links with ids of another tenant in them changes and learns nothing of it.

Each field of each form, and each parameter of each link, is taken from the person's own pages. One after the other is
given what the other tenant has in that place; so is every column of a row that its form does not offer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.models import Draft, Limit, NamedCaller, Policy
from tenants.console.rows import TenantRowsAdmin
from tenants.models import DEFAULT_ENVIRONMENTS, Environment, Tenant
from tokvigil_site.tests import stored_rows
from tokvigil_site.tests.console import page_forms, rows_of_a_tenant
from tokvigil_site.tests.console.addresses import Rows, filled
from tokvigil_site.tests.console.test_every_address import MARK, POST_ANYTHING, learned, posts, signed_in

pytestmark = pytest.mark.django_db(transaction=True)

OWN = "okapi"
# So that nobody has the test find nothing.
SENT_MIN, LINKS_MIN = 300, 50
# What a column that is no relation is tried with.
VALUES = {"id": "1", "version": "9", "revision": "9", "slug": f"{MARK}-taken", "key_id": "taken"}

WRITES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM|WITH)(?! \"django_session\")", re.IGNORECASE)


class World:
    """Two tenants with the same kinds of rows, and the owner of one."""

    def __init__(self) -> None:
        self.own, self.theirs = rows_of_a_tenant.made(OWN), rows_of_a_tenant.made(MARK)
        self.sam = signed_in(User.objects.get(username=f"{OWN}-owner"))
        self.tenant = self.theirs[Tenant]
        assert isinstance(self.tenant, Tenant)
        self.pairs = [(str(self.own[model].pk), str(self.theirs[model].pk)) for model in self.own]
        self.pairs += [(path_of(self.own), path_of(self.theirs)), (OWN, MARK)]
        self.pairs += [tuple(str(limit_of(rows).pk) for rows in (self.own, self.theirs))]  # type: ignore[list-item]

    def swapped(self, value: str) -> list[str]:
        """What the other tenant has where the person has this."""
        found = dict.fromkeys(theirs for own, theirs in self.pairs if own == value)
        return [*found] if found or OWN not in value else [value.replace(OWN, MARK)]

    def first_swapped(self, value: str) -> str:
        return next(iter(self.swapped(value)), value)

    @property
    def stored(self) -> object:
        assert isinstance(self.tenant, Tenant)
        members = User.objects.filter(memberships__tenant=self.tenant).values()
        return stored_rows.of(self.tenant), list(members)


def path_of(rows: Rows) -> str:
    return str(rows[Environment])


def limit_of(rows: Rows) -> Limit:
    return Limit.objects.get(policy=rows[Policy].pk)


@pytest.fixture
def world(empty_store: None) -> World:
    return World()


def sent_by(world: World) -> Iterator[tuple[str, page_forms.Fields]]:
    """Every form of the person's own pages, with one id of the other tenant, with all, and with columns of its rows."""
    for address, url, fields in posts(world.sam, filled(world.own)):
        if fields.keys() & {"_continue", "_addanother"}:
            continue
        for name, values in fields.items():
            for other in world.swapped(values[0]) if values else []:
                yield url, fields | {name: [other]}
        yield url, {name: list(map(world.first_swapped, values)) for name, values in fields.items()}
        model = model_of(address.name)
        if model is not None and fields not in POST_ANYTHING:
            more = _unoffered(world, model, fields)
            yield url, fields | more
            relations = {field.name for field in model._meta.concrete_fields if field.is_relation}
            for name in relations & more.keys():
                yield url, fields | {name: more[name]}


def text_of(answer: Any) -> str:
    content: bytes = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return content.decode(errors="replace")


def said_of_them(text: str) -> list[str]:
    return re.findall(rf".{{0,80}}{MARK}.{{0,80}}", text)


def model_of(name: str) -> type[models.Model] | None:
    for model in admin.site._registry:
        if name in (f"{model._meta.label_lower.replace('.', '_')}_{what}" for what in ("add", "change")):
            return model
    return None


def _unoffered(world: World, model: type[models.Model], fields: page_forms.Fields) -> page_forms.Fields:
    """The columns that the form does not have, with what is the other tenant's; and saving it as a new one."""
    row = world.theirs[model]
    columns = [field for field in model._meta.concrete_fields if field.name not in fields]
    found = {field.name: [str(VALUES.get(field.name) or field.value_from_object(row))] for field in columns}
    return {name: [value[0].replace("\0", "")] for name, value in found.items()} | {"_saveasnew": ["1"]}


def test_no_form_reaches_rows_of_another_tenant(world: World) -> None:
    before = world.stored
    sent = list(sent_by(world))
    assert len(sent) > SENT_MIN

    for url, fields in sent:
        with transaction.atomic():
            with CaptureQueriesContext(connection) as queries:
                answer = world.sam.post(url, fields)
            assert answer.status_code < 500, (url, fields)
            if any(WRITES.match(query["sql"]) for query in queries):
                assert world.stored == before, (url, fields)
            if MARK not in url + str(fields):
                assert said_of_them(text_of(answer)) == [], (url, fields)
            transaction.set_rollback(True)
        # What is said of the change that was taken back.
        world.sam.cookies.pop("messages", None)


def test_no_column_that_its_form_does_not_offer_is_changed(world: World) -> None:
    """The own rows: neither moved to another tenant nor given another id, version or secret."""
    for model, page in admin.site._registry.items():
        row = world.own[model]
        if not isinstance(page, TenantRowsAdmin):
            continue
        url = reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_change", args=[row.pk])
        for form in page_forms.posting(world.sam.get(url).content.decode()):
            if form.action and "logout" in form.action:
                continue
            more = _unoffered(world, model, form.fields)
            kept = [name for name in more if name != "_saveasnew"]
            before = model._base_manager.filter(pk=row.pk).values(*kept).get()
            with transaction.atomic():
                world.sam.post(url, form.fields | more)
                found = model._base_manager.filter(pk=row.pk).values(*kept).get()
                assert {name: found[name] for name in kept if not name.startswith("revis")} == {
                    name: before[name] for name in kept if not name.startswith("revis")
                }, url
                transaction.set_rollback(True)


def links(client: Client, rows: Rows) -> set[str]:
    """Those with a query, from all pages."""
    found = set()
    for address in filled(rows):
        if address.name != "logout":
            text = b"".join(client.get(address.url)).decode(errors="replace")
            found |= {unescape(each) for each in re.findall(r'href="(/admin/[^"#]*\?[^"#]+)', text)}
    return found


def test_no_link_leads_to_what_is_another_tenants(world: World) -> None:
    draft, caller = world.own[Draft], world.own[NamedCaller]
    known = links(world.sam, world.own) | {
        f"{reverse('admin:try_it')}?draft={draft.pk}",
        f"{reverse('admin:try_it')}?caller={caller.pk}&in=prod",
        f"{reverse('admin:policies_copy')}?policy={world.own[Policy].pk}&to=dev",
        f"{reverse('admin:audit_entry_changelist')}?chain={world.own[Tenant].pk}",
    }
    assert len(known) > LINKS_MIN
    for link in known:
        path, _, query = link.partition("?")
        asked = parse_qsl(query, keep_blank_values=True)
        for place, (name, value) in enumerate(asked):
            for other in world.swapped(value):
                swapped = [*asked[:place], (name, other), *asked[place + 1 :]]
                assert_unlearned(world.sam, f"{path}?{urlencode(swapped)}", other)


def assert_unlearned(client: Client, url: str, *said: str) -> None:
    """That the answer says nothing of the other tenant but what was asked for."""
    answer = client.get(url)
    assert answer.status_code < 500, url
    text = unescape(unquote_plus(unquote_plus(text_of(answer))))
    # With the name of an environment the console says which one it does not know, also when it was said before.
    for each in (*said, *(f"{MARK}/{slug}" for slug in DEFAULT_ENVIRONMENTS)):
        text = text.replace(each, "")
    assert "\n".join(said_of_them(text)) == "", url


@pytest.mark.parametrize("parameter", ["_popup=1&_to_field={}", "_to_field={}", "_changelist_filters=id={}"])
def test_no_parameter_of_djangos_own_pages_shows_more(world: World, parameter: str) -> None:
    for model in admin.site._registry:
        row = world.theirs[model]
        for value in (row.pk, "password", "secret_hmac", "id"):
            name = model._meta.label_lower.replace(".", "_")
            for what in ("changelist", "add"):
                url = f"{reverse(f'admin:{name}_{what}')}?{parameter.format(value)}"
                assert not learned(world.sam, world.sam.get(url)), url


def test_no_filter_finds_rows_of_another_tenant(world: World) -> None:
    for model in admin.site._registry:
        url = reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")
        row = world.theirs[model]
        columns = {field.name: field.value_from_object(row) for field in model._meta.concrete_fields}
        for name, value in (columns | {"q": MARK, "id": row.pk, "tenant": row.pk}).items():
            for lookup in ("", "__exact", "__id__exact", "__startswith"):
                answer = world.sam.get(url, {f"{name}{lookup}" if name != "q" else name: str(value)})
                assert answer.status_code in (200, 302, 400, 403), (url, name, lookup)
                shown = answer.context.get("cl") if answer.context else None
                found = [] if shown is None else [each.pk for each in shown.result_list]
                assert row.pk not in found, (url, name, lookup)


def test_autocompletion_offers_nothing_of_another_tenant(world: World) -> None:
    asked = 0
    for model in admin.site._registry:
        for field in model._meta.concrete_fields:
            if field.is_relation:
                query: dict[str, Any] = {
                    "term": "",
                    "app_label": model._meta.app_label,
                    "model_name": model._meta.model_name,
                }
                for term in ("", MARK):
                    answer = world.sam.get(
                        reverse("admin:autocomplete"), query | {"field_name": field.name, "term": term}
                    )
                    assert answer.status_code in (200, 403, 404), (model, field)
                    assert MARK not in answer.content.decode(), (model, field)
                    asked += 1
    assert asked > 10


def test_no_view_on_site_leads_to_rows_of_another_tenant(world: World) -> None:
    for model, row in world.theirs.items():
        content_type = ContentType.objects.get_for_model(model)
        answer = world.sam.get(f"/admin/r/{content_type.pk}/{row.pk}/")
        assert not learned(world.sam, answer)
        assert answer.status_code in (302, 400, 403, 404)
