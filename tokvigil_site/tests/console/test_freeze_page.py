"""The switch that blocks calls: with a reason, on every page, and undone only by who has seen it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from tenants import freezing
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥"


def address(environment: Environment) -> str:
    return f"{reverse('admin:freeze')}?environment={environment}"


def unfreezing(environment: Environment, feature: str = "") -> str:
    return reverse("admin:unfreeze", query={"environment": str(environment), "feature": feature})


def frozen(environment: Environment) -> tuple[bool, list[str]]:
    environment.refresh_from_db()
    return environment.frozen, environment.frozen_features


def post(client: Client, environment: Environment, **fields: str) -> Any:
    """With all that is asked again ticked, if the fields do not say otherwise."""
    ticked = {"anyway": "on", "all_calls": "on"}
    form = {"do": "freeze", "whole": "feature", "feature": "", "reason": "", **ticked, **fields}
    return client.post(address(environment), form)


def test_a_feature_is_frozen_for_a_reason_and_every_page_says_so(mia: Client, prod: Environment) -> None:
    post(mia, prod, feature=HOSTILE, reason=f"runs away {HOSTILE}")

    assert frozen(prod) == (False, [HOSTILE])
    page = mia.get(reverse("admin:policies_policy_changelist")).content.decode()
    assert "runs away &lt;script&gt;" in page
    assert "by <bdi>mia</bdi>" in page
    assert "<script>alert" not in page
    assert Entry.objects.get(action="environment.frozen").data["reason"].startswith("runs away")
    (known,) = freezing.in_force(prod)
    assert (known.by, known.since is not None) == ("admin:mia", True)


def test_the_whole_environment_is_frozen(mia: Client, prod: Environment, dev: Environment) -> None:
    post(mia, prod, whole="environment", reason="Provider down")
    assert frozen(prod) == (True, [])
    here = mia.get(reverse("admin:index"), {"environment": "acme/prod"}).content.decode()
    there = mia.get(reverse("admin:index"), {"environment": "acme/dev"}).content.decode()
    assert ("Provider down" in here, "Provider down" in there) == (True, False)


def test_the_whole_environment_is_frozen_only_when_that_is_ticked(mia: Client, prod: Environment) -> None:
    assert "Freeze all calls of" not in mia.get(address(prod)).content.decode()
    asked = post(mia, prod, whole="environment", reason="Provider down", all_calls="")
    page = asked.content.decode()
    assert frozen(prod) == (False, [])
    assert list(asked.context["form"].errors) == ["all_calls"]
    assert "Freeze all calls of acme/prod" in page
    assert 'type="checkbox" name="all_calls"' in page
    assert 'value="Provider down"' in page
    assert "checked" in page.split('value="environment"')[1].split(">")[0]

    post(mia, prod, whole="environment", reason="Provider down", all_calls="on")
    assert frozen(prod) == (True, [])


def test_what_is_asked_again_is_a_question_and_what_is_wrong_is_an_error(
    mia: Client, prod: Environment
) -> None:
    asked = post(mia, prod, whole="environment", reason="Provider down", all_calls="").content.decode()
    question = asked.partition('class="tv-question"')[2].partition("</div>")[0]
    assert "This blocks every call of acme/prod" in question
    assert "tv-field-errors" not in asked
    unseen = post(mia, prod, feature="sumarize", reason="x", anyway="").content.decode()
    assert ('class="tv-question"' in unseen, "tv-field-errors" in unseen) == (True, False)
    wrong = post(mia, prod, feature="", reason="x").content.decode()
    assert ('class="tv-question"' in wrong, "Name the feature to freeze." in wrong) == (False, True)


def test_the_feature_says_when_it_is_required(mia: Client, prod: Environment) -> None:
    page = mia.get(address(prod)).content.decode()
    assert "Required to freeze one feature" in page
    assert "empty for the whole environment" not in page


def test_one_feature_is_frozen_by_one_click(mia: Client, prod: Environment) -> None:
    assert post(mia, prod, feature="chat", reason="x", all_calls="").status_code == 302
    assert frozen(prod) == (False, ["chat"])


@pytest.mark.parametrize(("field", "fields"), [
    ("reason", {"feature": "chat"}),
    ("reason", {"feature": "chat", "reason": "r" * 201}),
    ("feature", {"reason": "x"}),
    ("feature", {"reason": "x", "feature": "f" * 256}),
    ("feature", {"reason": "x", "feature": "a\x00b"}),
    ("feature", {"reason": "x", "feature": "chat", "whole": "environment"}),
])  # fmt: skip
def test_what_is_wrong_is_said_beside_the_field(
    mia: Client, prod: Environment, field: str, fields: dict[str, str]
) -> None:
    answer = post(mia, prod, **fields)
    assert list(answer.context["form"].errors) == [field]
    assert frozen(prod) == (False, [])


def test_a_feature_that_was_never_seen_is_asked_about(mia: Client, prod: Environment) -> None:
    apply_policies(
        prod, limits("{metric: requests, window: day, amount: 1, per: user}", scope="{feature: summarize}")
    )
    answer = post(mia, prod, feature="sumarize", reason="x", anyway="")
    page = unescape(answer.content.decode())
    assert (
        "No call of the feature “sumarize” was seen here, and no policy names it. Did you mean “summarize”?"
        in page
    )
    assert 'type="checkbox" name="anyway"' in page
    assert 'value="sumarize"' in page
    assert frozen(prod) == (False, [])
    post(mia, prod, feature="sumarize", reason="x")
    assert frozen(prod) == (False, ["sumarize"])


@pytest.mark.django_db(transaction=True)
def test_a_feature_that_a_policy_names_or_a_call_had_is_not_asked_about(
    mia: Client, prod: Environment
) -> None:
    apply_policies(
        prod, limits("{metric: requests, window: day, amount: 1, per: user}", scope="{feature: summarize}")
    )
    Api(prod).use("ana", feature="chat")
    assert 'type="checkbox"' not in mia.get(address(prod)).content.decode()
    for feature in ("summarize", "chat"):
        assert post(mia, prod, feature=feature, reason="x", anyway="").status_code == 302
    assert frozen(prod) == (False, ["chat", "summarize"])


def test_it_is_undone_as_easily(mia: Client, prod: Environment) -> None:
    freezing.freeze(prod, actor="test")
    freezing.freeze(prod, features=["chat"], reason="x", actor="test")
    for each in mia.get(address(prod)).context["frozen"]:
        mia.post(unfreezing(prod, each.feature), {"seen": each.seen})
    assert frozen(prod) == (False, [])
    assert freezing.in_force(prod) == []


def test_unfreezing_asks_first_and_says_what_happens(mia: Client, prod: Environment) -> None:
    freezing.freeze(prod, actor="admin:bo")
    for feature in ("chat", HOSTILE):
        freezing.freeze(prod, features=[feature], reason=f"runs away {HOSTILE}", actor="admin:bo")
    page = mia.get(address(prod)).content.decode()
    # Each in the banner and in the list.
    links = list(dict.fromkeys(map(unescape, re.findall(r'href="([^"]*unfreeze[^"]*)"', page))))
    assert len(links) == 3
    pages = [mia.get(link).content.decode() for link in links]
    assert frozen(prod) == (True, [HOSTILE, "chat"]), "asking changes nothing"
    assert Entry.objects.filter(action="environment.unfrozen").count() == 0
    whole, *features = pages
    assert all(f'href="{address(prod)}'.replace("acme/", "acme%2F") in page for page in pages), (
        "no leads back"
    )
    assert "All calls of acme/prod are decided by the policies again, from the very next one on" in whole
    assert "Still frozen after that: <bdi>&lt;script&gt;" in whole
    assert "<script>alert" not in "".join(pages)
    assert "Unfreeze acme/prod" in whole
    for page in features:
        assert "by <bdi>bo</bdi>" in page
        assert "runs away &lt;script&gt;" in page
        assert "The whole environment stays frozen" in page
    for link, page in zip(links, pages, strict=True):
        seen = re.search(r'name="seen" value="([^"]+)"', page)
        assert seen is not None
        said = mia.post(link, {"post": "yes", "seen": seen[1]}, follow=True).content.decode()
        assert "is not frozen any more, from the very next call on" in said
    assert frozen(prod) == (False, [])
    assert Entry.objects.filter(action="environment.unfrozen").count() == 3
    assert "This is not frozen in acme/prod, or not any more." in mia.get(links[0]).content.decode()


@pytest.mark.parametrize("feature", ["", "never", "a\0b", "f" * 999])
def test_what_is_not_frozen_is_not_unfrozen(mia: Client, prod: Environment, feature: str) -> None:
    freezing.freeze(prod, features=["chat"], actor="test")
    assert "This is not frozen" in mia.get(unfreezing(prod, feature)).content.decode()
    assert mia.post(unfreezing(prod, feature), {"seen": ""}).status_code == 302
    assert frozen(prod) == (False, ["chat"])


def test_a_stale_page_does_not_undo_a_later_freeze(mia: Client, prod: Environment) -> None:
    freezing.freeze(prod, features=["chat"], reason="first", actor="test")
    (seen,) = mia.get(address(prod)).context["frozen"]
    freezing.unfreeze(prod, features=["chat"], actor="colleague")
    freezing.freeze(prod, features=["chat"], reason="again", actor="colleague")

    answer = mia.post(unfreezing(prod, "chat"), {"seen": seen.seen}, follow=True)

    assert frozen(prod) == (False, ["chat"])
    assert "it changed since the page was opened" in answer.content.decode()


def test_what_was_frozen_before_keeps_its_reason(prod: Environment) -> None:
    freezing.freeze(prod, features=["chat"], reason="first", actor="admin:bo")
    freezing.freeze(prod, features=["chat", "code"], reason="second", actor="admin:eve")
    known = freezing.in_force(Environment.objects.get(pk=prod.pk))
    assert [(each.feature, each.reason, each.by) for each in known] == [
        ("chat", "first", "admin:bo"),
        ("code", "second", "admin:eve"),
    ]


def test_one_that_was_frozen_by_an_older_version_is_shown_and_undone(mia: Client, prod: Environment) -> None:
    Environment.objects.filter(pk=prod.pk).update(frozen=True, frozen_features=["chat"])
    assert mia.get(address(prod)).status_code == 200
    for feature in ("", "chat"):
        mia.post(unfreezing(prod, feature), {"seen": ""})
    assert frozen(prod) == (False, [])


def test_the_banner_leads_to_the_question_for_who_may_unfreeze_and_to_the_list_for_others(
    acme: Tenant, prod: Environment, mia: Client, sign_in: SignIn
) -> None:
    freezing.freeze(prod, features=[HOSTILE], reason="x", actor="test")
    viewer = sign_in("vic", acme, role=Role.VIEWER)
    for client, text, name in ((mia, "Unfreeze…", "unfreeze"), (viewer, "What is frozen", "freeze")):
        page = client.get(reverse("admin:policies_policy_changelist")).content.decode()
        link = re.search(rf'<a href="([^"]*)">{text}</a>', page)
        assert link is not None
        assert link[1].startswith(f"{reverse(f'admin:{name}')}?")
        answer = client.get(unescape(link[1]))
        assert answer.status_code == 200
        assert "evil" in answer.content.decode()


def test_who_may_not_change_looks_alone(
    acme: Tenant, prod: Environment, sign_in: SignIn, other: Tenant
) -> None:
    freezing.freeze(prod, reason="secret plans", actor="test")
    viewer, stranger = sign_in("vic", acme, role=Role.VIEWER), sign_in("sam", other)
    assert "secret plans" in viewer.get(address(prod)).content.decode()
    assert stranger.get(address(prod)).status_code == 404
    assert post(stranger, prod, whole="environment", reason="x").status_code == 404
    assert not Environment.objects.exclude(pk=prod.pk).filter(frozen=True).exists()
    prod.refresh_from_db()
    for client in (viewer, stranger):
        client.post(unfreezing(prod), {"seen": freezing.in_force(prod)[0].seen})
    assert reverse("admin:unfreeze") not in viewer.get(address(prod)).content.decode()
    assert [viewer.get(unfreezing(prod)).status_code, stranger.get(unfreezing(prod)).status_code] == [
        403,
        404,
    ]
    assert post(viewer, prod, feature="chat", reason="x").status_code == 403
    assert frozen(prod) == (True, [])
