"""Questions of the Explorer under a name."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from tenants.models import Environment, Role, Tenant
from tokvigil_site.tests.console.conftest import SignIn
from usage.admin import question_words
from usage.analytics import saved_views
from usage.models import SavedView

pytestmark = pytest.mark.django_db

QUESTION = "?period=month&feature=a%26b&show=calls&by=user"


def save(client: Client, name: str, *, shared: bool = False, question: str = QUESTION) -> Any:
    form = {"name": name, **({"shared": "on"} if shared else {})}
    return client.post(reverse("admin:saved_views") + question, form)


def page(view: SavedView) -> str:
    return reverse("admin:saved_view", args=[view.pk])


def test_a_view_asks_again_what_was_asked(prod: Environment, mia: Client) -> None:
    explorer = mia.get(reverse("admin:explorer") + QUESTION)
    saving = mia.get(explorer.context["save_url"])
    assert save(mia, "Calls of a&b", question="?" + saving.context["query"]).status_code == 302
    shown = mia.get(reverse("admin:explorer"))
    (view,) = shown.context["views"]
    again = mia.get(f"{reverse('admin:explorer')}?{view.query}")
    assert again.context["asked"].filters == {"feature": "a&b"}
    assert again.context["asked"].question().group == "user"
    assert "Calls of a&amp;b" in shown.content.decode()


def test_a_private_view_is_seen_by_its_author_alone_and_a_shared_one_by_the_tenant(
    acme: Tenant, prod: Environment, other: Tenant, mia: Client, sign_in: SignIn
) -> None:
    save(mia, "Private")
    save(mia, "Shared", shared=True)
    ben, sam = sign_in("ben", acme, role=Role.VIEWER), sign_in("sam", other)
    for client, names in ((mia, ["Private", "Shared"]), (ben, ["Shared"]), (sam, [])):
        found = client.get(reverse("admin:explorer")).context["views"]
        assert [view.name for view in found] == names
    private, shared = SavedView.objects.get(name="Private"), SavedView.objects.get(name="Shared")
    assert [ben.get(page(view)).status_code for view in (private, shared)] == [404, 403]
    assert [sam.get(page(view)).status_code for view in (private, shared)] == [404, 404]
    assert ben.post(page(shared), {"do": "delete"}).status_code == 403
    assert SavedView.objects.count() == 2


def test_its_author_renames_shares_and_deletes_it(prod: Environment, mia: Client) -> None:
    save(mia, "Mine")
    view = SavedView.objects.get()
    assert mia.post(page(view), {"name": "Ours", "shared": "on"}).status_code == 302
    view.refresh_from_db()
    assert (view.name, view.shared) == ("Ours", True)
    assert mia.post(page(view), {"do": "delete"}).status_code == 302
    assert not SavedView.objects.exists()
    actions = Entry.objects.filter(action__startswith="view.").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["view.saved", "view.changed", "view.deleted"]


def test_an_owner_deletes_the_shared_view_of_who_is_gone(
    acme: Tenant, prod: Environment, mia: Client, sign_in: SignIn
) -> None:
    save(mia, "Shared", shared=True)
    owner = sign_in("olga", acme, role=Role.OWNER)
    assert owner.post(page(SavedView.objects.get()), {"do": "delete"}).status_code == 302
    assert not SavedView.objects.exists()


def test_a_name_that_is_taken_is_refused_and_kept(prod: Environment, mia: Client) -> None:
    save(mia, "Mine")
    again = save(mia, "Mine")
    assert again.status_code == 200
    assert "There is a view &#x27;Mine&#x27; of yours already" in again.content.decode()
    save(mia, "Other")
    renamed = mia.post(page(SavedView.objects.get(name="Other")), {"name": "Mine"})
    assert "of yours already" in renamed.content.decode()
    assert set(SavedView.objects.values_list("name", flat=True)) == {"Mine", "Other"}


def test_there_are_no_more_views_than_the_bound(
    prod: Environment, mia: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_views, "VIEWS_MAX", 1)
    save(mia, "First")
    assert "delete one first" in save(mia, "Second").content.decode()
    assert SavedView.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "question", "says"),
    [
        ("", QUESTION, "This field is required."),
        ("a" * 101, QUESTION, "at most 100 characters"),
        ("a\0", QUESTION, "Null characters are not allowed."),
        ("Name", "?show=money", "cannot be read"),
        ("Name", "?user=" + "é" * 255 + "&feature=" + "é" * 255, "longer than 2000 characters"),
    ],
)
def test_what_cannot_be_saved_is_said(
    prod: Environment, mia: Client, name: str, question: str, says: str
) -> None:
    answer = save(mia, name, question=question)
    assert answer.status_code == 200
    assert says in answer.content.decode()
    assert not SavedView.objects.exists()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "Spend by model, last 7 days, day by day, the first 5"),
        (
            "period=month&feature=a%26b&show=calls&by=user&then=plan&rank=rise&top=10&without=run&cumulative=on",
            "Calls by user and plan, this month, day by day, added up, only feature a&b, only without a run, "
            "largest rise first, the first 10",
        ),
        (
            "period=custom&from=2026-11-01&to=2026-11-05&by=none&step=none",
            "Spend, 2026-11-01 to 2026-11-05",
        ),
        ("show=hope&period=aeon", "hope by model, aeon, day by day, the first 5"),
    ],
)
def test_a_question_is_said_in_words(query: str, says: str) -> None:
    assert question_words.says(query) == says


def test_what_became_of_a_view_is_said(prod: Environment, mia: Client) -> None:
    def said(url: str, **form: str) -> str:
        return unescape(mia.post(url, form, follow=True).content.decode())

    listed = said(reverse("admin:saved_views") + QUESTION, name="Mine")
    assert "The view 'Mine' is saved." in listed
    assert "Calls by user, this month, day by day, only feature a&b, the first 5" in listed
    assert "show=calls</bdi>" not in listed
    view = SavedView.objects.get()
    assert "The view 'Ours' is saved." in said(page(view), name="Ours")
    assert "The view 'Ours' is deleted." in said(page(view), do="delete")
