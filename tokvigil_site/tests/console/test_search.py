"""The search of the console: it finds what is in the shown environment, and says where else to look."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

import policies.search
from policies.changing.publishing import add_plan
from policies.end_users import block
from policies.models import BlockedDecision, Policy
from tenants import freezing
from tenants.console.display import user_url
from tenants.models import ApiKey, Environment, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.console.conftest import SignIn
from usage.counting.store import StoreUnavailable, store
from usage.models import UsageEvent

pytestmark = pytest.mark.django_db(transaction=True)

DAILY_2 = limits("{metric: requests, window: day, amount: 2, per: user}", name="Daily calls")
PRICED_ALONE = (
    "policies:\n  - name: Everyone\n    limits: [{metric: requests, window: day, amount: 5, per: user}]\n"
)


def search(client: Client, text: str, environment: str = "acme/prod") -> str:
    answer = client.get(reverse("admin:search"), {"q": text, "environment": environment})
    assert answer.status_code == 200
    return unescape(answer.content.decode())


@pytest.fixture
def api(prod: Environment) -> Api:
    return Api(prod)


def test_a_user_who_was_blocked_a_moment_ago_is_found(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, PRICED_ALONE)
    api.evaluate("Ana", feature="chat", model="gpt-new")

    shown = search(mia, "Ana")

    assert "Looked for <b><bdi>Ana</bdi></b> in <b><bdi>acme/prod</bdi></b>" in shown
    assert f'href="{user_url(prod, "Ana")}"' in shown
    assert f"{reverse('admin:policies_blockeddecision_changelist')}?environment=acme%2Fprod&user=Ana" in shown
    assert "There is nothing with this id or name in" in search(mia, "ana")


def test_what_people_come_for_is_one_step_from_there(
    mia: Client, sign_in: SignIn, acme: Tenant, prod: Environment, api: Api
) -> None:
    apply_policies(prod, DAILY_2)
    plan = add_plan(prod, "pro", actor="test")
    for _ in range(2):
        api.use("ana", feature="summarize")
    api.evaluate("ana", feature="summarize")
    policy = Policy.objects.get()
    # Why was ana blocked? Give ana more calls.
    shown = search(mia, "ana")
    assert "ana: Daily request limit exceeded" in shown
    block_url = reverse("admin:policies_blockeddecision_change", args=[BlockedDecision.objects.get().pk])
    assert f'href="{block_url}"' in shown
    boost = f"{reverse('admin:policies_boost_add')}?environment=acme%2Fprod&per=user&subject=ana"
    assert f'href="{boost}"' in shown
    # Who changed the pro plan, and the policy?
    assert f'href="{reverse("admin:policies_plan_history", args=[plan.pk])}">Who changed it' in search(
        mia, "pro"
    )
    assert reverse("admin:policies_policy_history", args=[policy.pk]) in search(mia, policy.name)
    # Stop all summarize calls now.
    freeze = f"{reverse('admin:freeze')}?environment=acme%2Fprod&feature=summarize"
    assert f'href="{freeze}">Freeze…' in search(mia, "summarize")
    assert mia.get(freeze).context["form"]["feature"].value() == "summarize"
    # What did it cost?
    explorer = f"{reverse('admin:explorer')}?environment=acme%2Fprod&feature=summarize"
    assert f'href="{explorer}">What it cost' in search(mia, "summarize")
    assert mia.get(explorer).status_code == 200

    viewer = sign_in("vera", acme, role=Role.VIEWER)
    for text in ("ana", "pro", "summarize"):
        found = search(viewer, text)
        assert not any(word in found for word in ("Give a boost", "Who changed it", "Freeze…")), text


def test_a_user_is_found_with_each_reason_and_how_often(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, DAILY_2)
    for _ in range(2):
        api.use("ana")
    for _ in range(3):
        api.evaluate("ana")
    block(prod, "ana", "Abuse", actor="test")
    api.evaluate("ana")

    shown = search(mia, "ana")

    assert "ana: User blocked" in shown
    assert "the only call of theirs blocked for this reason" in shown
    assert "the latest of 3 calls of theirs blocked for this reason" in shown
    decisions = reverse("admin:policies_blockeddecision_changelist")
    found = re.search(rf'href="({re.escape(decisions)}[^"]*reason=[^"]*)">All 3<', shown)
    assert found is not None
    assert mia.get(found[1]).content.decode().count("/policies/blockeddecision/") >= 3


def test_a_call_that_was_asked_for_again_is_one_call(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 0, per: user}"))
    for request_id in ("r1", "r1"):
        api.evaluate("ana", request_id=request_id)
    assert "the only call of theirs blocked for this reason" in search(mia, "ana")
    api.evaluate("ana", request_id="r2")
    assert "the latest of 2 calls of theirs blocked for this reason" in search(mia, "ana")


def test_a_user_with_many_blocked_calls_is_not_said_to_have_few(
    mia: Client, prod: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies.search, "BLOCKS_MAX", 3)
    apply_policies(prod, limits("{metric: requests, window: day, amount: 0, per: user}"))
    for _ in range(4):
        api.evaluate("ana")
    assert "the latest of 3 or more calls of theirs blocked for this reason" in search(mia, "ana")


def test_a_request_is_found_among_blocked_and_recorded_calls(
    mia: Client, prod: Environment, api: Api
) -> None:
    set_price("gpt-4o")
    apply_policies(prod, DAILY_2)
    for _ in range(2):
        api.use("ana")
    decision = api.evaluate("ana")
    recorded = UsageEvent.objects.filter(environment=prod).latest("id")

    assert "ana: Daily request limit exceeded" in search(mia, decision["request_id"])
    page = reverse("admin:policies_blockeddecision_change", args=[BlockedDecision.objects.get().pk])
    assert f'href="{page}"' in search(mia, decision["request_id"])
    event = reverse("admin:usage_usageevent_change", args=[recorded.pk])
    assert f'href="{event}"' in search(mia, recorded.request_id)


def test_a_call_in_flight_is_found_by_its_user_and_its_request_until_it_is_reported(
    mia: Client, sign_in: SignIn, other: Tenant, prod: Environment, api: Api
) -> None:
    set_price("gpt-4o", input_usd="10")
    apply_policies(prod, DAILY_2)
    calls = [api.evaluate(user, model="gpt-4o", input_tokens=1_000) for user in ("newbie", "ana")]
    request_id = calls[0]["request_id"]

    by_user, by_request = search(mia, "newbie"), search(mia, request_id)

    assert f'href="{user_url(prod, "newbie")}"' in by_user
    assert "1 call in flight, holds $0.01 until " in by_user
    assert "newbie called gpt-4o: in flight, holds 1,000 tokens in, 0 out, $0.01" in by_request
    assert f'href="{user_url(prod, "newbie")}"' in by_request
    for text in ("newbi", "new", request_id[:-1]):
        assert "in flight" not in search(mia, text), text
    elsewhere = search(sign_in("sam", other), "newbie", "other/prod")
    assert "in flight" not in elsewhere
    assert "Your other environments have nothing" in elsewhere

    api.report(request_id, "newbie", "gpt-4o")

    assert not any("in flight" in search(mia, text) for text in ("newbie", request_id))


def test_what_is_stored_is_found_while_the_counters_do_not_answer(
    mia: Client, prod: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    block(prod, "ana", "Spam", actor="test")

    def away(*arguments: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "_guarded", away)
    assert f'href="{user_url(prod, "ana")}"' in search(mia, "ana")


def test_what_the_staff_named_is_found_by_how_it_begins(mia: Client, prod: Environment) -> None:
    apply_policies(prod, DAILY_2)
    add_plan(prod, "Pro", actor="test")
    key, _ = ApiKey.issue(prod, "Billing worker", (EVALUATE,))

    policy = reverse("admin:policies_policy_change", args=[Policy.objects.get().pk])
    assert f'href="{policy}"' in search(mia, "daily")
    assert "Plans" in search(mia, "pr")
    page = f'href="{reverse("admin:tenants_apikey_change", args=[key.pk])}"'
    for text in ("bill", key.key_id, key.key_id[:6], f"tv_prod_{key.key_id[:6]}…"):
        assert page in search(mia, text), text


def test_features_and_models_are_found(mia: Client, prod: Environment, api: Api) -> None:
    priced = set_price("gpt-4o", input_usd="2.5", output_usd="10")
    apply_policies(prod, PRICED_ALONE)
    api.evaluate("ana", feature="chat", model="gpt-new")

    assert f"{reverse('admin:policies_blockeddecision_changelist')}?environment=acme%2Fprod&feature=chat" in (
        search(mia, "chat")
    )
    shown = search(mia, "GPT-4o")
    assert f'href="{reverse("admin:usage_modelprice_change", args=[priced.pk])}"' in shown
    assert "$2.50 in, $10.00 out per million tokens" in shown
    assert "has no price" in search(mia, "gpt-new")


def test_a_model_that_was_only_called_is_found(mia: Client, prod: Environment, api: Api) -> None:
    assert "has no price" not in search(mia, "house-model")
    assert api.report("r-1", "ana", "house-model").status == 201
    assert "has no price" in search(mia, "house-model")


def test_if_nothing_is_here_the_other_environments_that_have_it_are_named(
    mia: Client, prod: Environment, dev: Environment, other: Tenant
) -> None:
    block(dev, "ana", "Spam", actor="test")
    block(other.environments.get(slug="prod"), "bob", "Spam", actor="test")

    shown = search(mia, "ana")

    assert "There is nothing with this id or name in" in shown
    assert "as user" in shown
    link = next(part for part in shown.split('href="') if "Search there" in part[:200]).split('"')[0]
    assert parse_qs(urlsplit(link).query) == {"q": ["ana"], "environment": ["acme/dev"]}
    assert f'href="{user_url(dev, "ana")}"' in unescape(mia.get(link).content.decode())
    # Of other tenants nothing is learned.
    assert "Your other environments have nothing" in search(mia, "bob")


def test_spaces_that_came_along_do_not_matter_unless_they_are_part_of_the_id(
    mia: Client, prod: Environment
) -> None:
    block(prod, "ana", "Spam", actor="test")
    assert f'href="{user_url(prod, "ana")}"' in search(mia, " ana\t")
    block(prod, " ana\t", "Spam", actor="test")
    spaced = user_url(prod, " ana\t")
    assert f'href="{spaced}"' in search(mia, " ana\t")


def test_a_name_that_is_misspelt_leads_to_those_that_look_like_it(
    mia: Client, prod: Environment, api: Api
) -> None:
    apply_policies(prod, DAILY_2)
    api.use("<b>Kavya</b>", feature="summarize", model="gpt-5")
    for typed, meant in (
        ("sumarize", "summarize"),
        ("Daily cals", "Daily calls"),
        ("<b>kavya</b>", "<b>Kavya</b>"),
    ):
        shown = search(mia, typed)
        link = re.search(rf'Did you mean <a href="([^"]+)"><bdi>{meant}</bdi></a>', shown)
        assert link is not None, typed
        assert parse_qs(urlsplit(link[1]).query) == {"q": [meant], "environment": ["acme/prod"]}
    assert "Did you mean" not in search(mia, "entirely else")


def test_a_frozen_feature_is_marked_even_if_it_was_never_called(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.use("ana", feature="chat")
    assert "Frozen" not in search(mia, "chat").partition('<ul class="tv-found"')[2]
    freezing.freeze(prod, features=["chat", "next"], reason="It runs away.", actor="test")
    for feature in ("chat", "next"):
        found = search(mia, feature).partition('<ul class="tv-found"')[2]
        assert "<bdi>Frozen</bdi>" in found
        assert "It runs away." in found
        link = re.search(r'href="([^"]*)">Unfreeze…', found)
        assert link is not None
        assert mia.get(unescape(link[1])).context["freeze"].feature == feature


def test_whatever_is_typed_is_kept_and_answered(mia: Client) -> None:
    for text in ("x" * 255, "<script>alert(1)</script>", "\u202eevil", "💥", "%", "_", "tv__", "\\", "'"):
        shown = mia.get(reverse("admin:search"), {"q": text})
        assert shown.status_code == 200
        assert b"<script>alert" not in shown.content
    assert "There is nothing with this id or name" in search(mia, "%")
    too_long = search(mia, "x" * 300)
    assert "No id or name is longer than 255 characters." in too_long
    assert f'value="{"x" * 300}"' in too_long
    assert "Null characters are not allowed." in search(mia, "a\0b")
    for nothing in ("", "  "):
        assert "There is nothing" not in search(mia, nothing)


def test_its_queries_do_not_grow_with_what_is_stored(mia: Client, prod: Environment, acme: Tenant) -> None:
    search(mia, "nobody")
    with CaptureQueriesContext(connection) as few:
        search(mia, "nobody")
    for number in range(5):
        environment = acme.environments.create(slug=f"more-{number}")
        block(environment, "nobody", "Spam", actor="test")
    with CaptureQueriesContext(connection) as many:
        assert "more-4" in search(mia, "nobody")
    assert len(many) <= len(few)


def test_nothing_is_remembered_of_what_a_person_may_see_no_more(
    acme: Tenant, other: Tenant, prod: Environment, sign_in: SignIn
) -> None:
    client = sign_in("sam", acme, other)
    block(prod, "ana", "Spam", actor="test")
    assert user_url(prod, "ana") in search(client, "ana")
    acme.memberships.filter(user__username="sam").delete()
    answer = client.get("/admin/search/", {"s": "ana", "q": "ana", "extended": "1"})
    assert b"acme/" not in answer.content
    assert b"There is nothing with this id or name in" in answer.content
