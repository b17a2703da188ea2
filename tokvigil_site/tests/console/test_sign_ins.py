"""Signing in, signing out and failing to are entries; of failures not more than a bounded number."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit import chain, wording
from audit.models import Entry
from tenants import sign_ins
from tenants.models import Membership, Role, Tenant
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

LOGIN = reverse("admin:login")
LIST = reverse("admin:audit_entry_changelist")
PASSWORD = "a long enough one 4711"


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob", password=PASSWORD, is_staff=True)


def attempt(username: str, password: str = "wrong 4712", client: Client | None = None) -> Client:  # noqa: S107
    client = client or Client()
    client.post(LOGIN, {"username": username, "password": password})
    return client


def said() -> list[str]:
    entries = Entry.objects.filter(action__startswith="sign_in.").order_by("seq")
    return [str(wording.sentence(entry)) for entry in entries]


def test_signing_in_and_out_are_entries_of_the_installation(bob: User) -> None:
    client = attempt("bob", PASSWORD)
    assert client.post(reverse("admin:logout")).status_code == 200
    assert said() == ["bob signed in", "bob signed out"]
    entry = Entry.objects.first()
    assert entry is not None
    assert (entry.tenant_id, entry.actor, entry.target_id, entry.address) == (
        None,
        "admin:bob",
        str(bob.pk),
        "127.0.0.1",
    )
    assert chain.verify(None).ok


def test_a_failure_names_what_was_tried_and_nobody_as_the_one_who_did(bob: User) -> None:
    attempt("bob")
    attempt("x" * 100)
    attempt("a\0b")
    attempt("")
    assert said() == [
        "somebody failed to sign in as bob",
        f"somebody failed to sign in as {'x' * 40}",
        "somebody failed to sign in as a\ufffdb",
        "somebody failed to sign in as",
    ]
    assert "4712" not in str(list(Entry.objects.values()))


def test_who_may_not_use_the_console_fails_too(bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_staff=False)
    attempt("bob", PASSWORD)
    assert said() == ["somebody failed to sign in as bob"]


def test_looking_at_the_page_is_no_entry(bob: User) -> None:
    Client().get(LOGIN)
    assert said() == []


def test_nobody_can_fill_the_log_or_hide_behind_made_up_names(
    bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_ins, "FAILURES_OF_UNKNOWN_NAMES_MAX", 3)
    monkeypatch.setattr(sign_ins, "FAILURES_OF_A_USER_MAX", 2)
    for number in range(5):
        attempt(f"made up {number}")
    for _ in range(4):
        attempt("bob")
    assert [text.removeprefix("somebody failed to sign in as ") for text in said()] == [
        "made up 0",
        "made up 1",
        "made up 2: more in this hour not recorded",
        "bob",
        "bob: more in this hour not recorded",
    ]
    with time_machine.travel(timezone.now() + timedelta(hours=1, minutes=1)):
        attempt("bob")
    assert said()[-1] == "somebody failed to sign in as bob"


def test_whoever_may_see_the_log_sees_the_sign_ins_of_the_members(
    bob: User, sign_in: SignIn, acme: Tenant, other: Tenant
) -> None:
    Membership.objects.create(tenant=acme, user=bob, role=Role.VIEWER)
    attempt("bob")
    attempt("nobody we know")

    def seen(client: Client) -> list[str]:
        return [
            str(row.sentence) for row in client.get(LIST).context["rows"] if "sign in" in str(row.sentence)
        ]

    assert seen(sign_in("olga", acme, role=Role.OWNER)) == ["somebody failed to sign in as bob"]
    assert seen(sign_in("otto", other, role=Role.OWNER)) == []
    assert seen(sign_in("aud", acme, role=Role.AUDITOR)) == ["somebody failed to sign in as bob"]
    assert sign_in("edi", acme, role=Role.EDITOR).get(LIST).status_code == 403
    assert len(seen(sign_in("root"))) == 2
