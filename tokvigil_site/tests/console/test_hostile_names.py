"""Names that anybody can give to users, features, models, policies and the rest: shown as text, on every page.

They come from applications and from their end users, and a page that took one for markup, for a template or for an
expression would act in the name of whoever looks at it.
"""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from policies import end_users
from tenants import freezing
from tenants.console.display import user_url
from tenants.models import Environment
from tokvigil_site.tests.console import rows_of_a_tenant
from tokvigil_site.tests.console.addresses import Address, filled
from tokvigil_site.tests.console.test_every_address import posts

# Pages that evaluate read in a transaction of their own.
pytestmark = pytest.mark.django_db(transaction=True)

# An element and an attribute of this name would be made by a page that takes a name for markup.
EVIL = "tv-evil"
NAMES = {
    "markup": f"okapi '\"><{EVIL} {EVIL}=1></script></textarea></title><!--",
    "markup of json": f"okapi \\u003c{EVIL}> ]]> &lt;{EVIL}&gt; </{EVIL}>",
    "templates": "okapi {{ 719123451|add:7 }}{% now 'Y' %}${719123451*7}",
    "formats": "okapi %s %(name)s {0} {name} %00 %",
    "addresses": "okapi/../a?b=c&d=e#f;g%2Fh",
    "white space": "okapi\t \u202eevil\u2066\u2028\U0001f4a5 \x7f",
    "line breaks": "okapi\r\nX-Evil: 1\r\n\r\n<b>",
    "formula": "=cmd|' /C okapi'!A0",
    "long": "okapi" + "\U0001f4a5" * 80,
}
# What of it would be the work of a template: too long to be in a digest, an id or a count by chance.
COMPUTED = ("719123458", "5033864157")
# Attributes that a page evaluates.
EVALUATED = re.compile(r"x-|@|:|on|hx-on|hx-vals")
SHOWN_ON_MIN, FORMS_MIN = 15, 100
FREE_TEXT = (
    "name", "reason", "note", "block-reason", "feature", "subject", "user_id", "model", "text", "person", "slug",
)  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of a page that must not be there."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if EVIL in tag:
            self.found.append(f"<{tag}>")
        for name, value in attributes:
            if EVIL in name or (EVALUATED.match(name) and "okapi" in (value or "")):
                self.found.append(f"<{tag} {name}={value}>")


def made(name: str) -> tuple[Client, list[Address]]:
    """The owner's browser, and pages with the name in whatever may be called anything."""
    rows = rows_of_a_tenant.made("tenant", called=name)
    environment = rows[Environment]
    assert isinstance(environment, Environment)
    freezing.freeze(environment, features=[f"{name}-feature"], reason=f"{name}-reason", actor="test")
    end_users.block(environment, f"{name}-user", f"{name}-reason", actor="test")
    client = Client()
    client.force_login(User.objects.get(username="tenant-owner"))
    more = [
        Address("end_user", user_url(environment, f"{name}-user"), takes_ids=True),
        Address("audit", reverse("admin:audit_entry_changelist") + "?find=reason", takes_ids=True),
    ]
    return client, [address for address in filled(rows) if address.name != "logout"] + more


def wrong_with(page: str) -> list[str]:
    return Reader(page).found + [text for text in COMPUTED if text in page]


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_is_text_on_every_page(empty_store: None, kind: str) -> None:
    name = NAMES[kind]
    client, addresses = made(name)
    shown, links, wrong = 0, set(), {}
    for address in addresses:
        answer = client.get(address.url)
        if answer.streaming:
            # A file to be saved, which no browser shows.
            assert answer["Content-Disposition"].startswith("attachment"), address
            continue
        page = answer.content.decode(errors="replace")
        if answer.status_code >= 500 or wrong_with(page):
            wrong[address.url] = answer.status_code, wrong_with(page)
        shown += name.strip() in unescape(page)
        links |= {unescape(link) for link in re.findall(r'href="(/admin/[^"]+)"', page)}
    assert wrong == {}
    assert shown >= SHOWN_ON_MIN
    lead_nowhere = {
        link: status
        for link in links
        if "okapi" in unquote(link) and (status := client.get(link).status_code) not in (200, 302)
    }
    assert lead_nowhere == {}


@pytest.mark.parametrize("kind", ["markup", "NUL"])
def test_whatever_is_typed_into_a_field_is_answered_as_text(empty_store: None, kind: str) -> None:
    typed = "a\0b" if kind == "NUL" else NAMES[kind]
    client, addresses = made("okapi")
    tried = 0
    for _, url, fields in posts(client, addresses):
        if "/delete/" in url or ACTION_CHECKBOX_NAME in fields:
            continue
        kept = {name: values for name, values in fields.items() if name.startswith(("_", "action", "do"))}
        for sent in (
            {name: [typed] for name in fields} | kept,
            fields | {name: [typed] for name in FREE_TEXT if name in fields},
        ):
            answer = client.post(url, sent)
            assert answer.status_code < 500, (url, sent)
            if not answer.streaming:
                assert wrong_with(answer.content.decode(errors="replace")) == [], (url, sent)
            tried += 1
    assert tried > FORMS_MIN
