import re
from datetime import UTC, datetime
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import Entry
from policies.models import BlockedDecision
from tenants.console import rows
from tenants.models import ApiKey, Environment, Membership, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import Api
from usage import wording
from usage.ledger.models import Status
from usage.models import ModelPrice, UsageEvent
from usage.prices.cost import UNDATED

# The page of a row asks how limits stand, which reads a snapshot of its own.
pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime.now(UTC)


@pytest.fixture
def environment() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="prod")


@pytest.fixture
def other() -> Environment:
    return Tenant.create_with_environments("other").environments.get(slug="prod")


def signed_in(username: str, tenant: Tenant | None, role: str = Role.ADMIN) -> Client:
    user = User.objects.create_user(username, is_staff=True, is_superuser=tenant is None)
    if tenant is not None:
        Membership.objects.create(tenant=tenant, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def superuser() -> Client:
    return signed_in("root", None)


@pytest.fixture
def member(environment: Environment) -> Client:
    return signed_in("mia", environment.tenant)


@pytest.fixture
def stranger(other: Environment) -> Client:
    return signed_in("sam", other.tenant)


def event(environment: Environment, request_id: str, status: str = "succeeded") -> UsageEvent:
    return UsageEvent.objects.create(
        environment=environment, request_id=request_id, charged_at=NOW, recorded_at=NOW, xid=1, user_id="ann",
        feature="chat", plan="free", run_id="", model="gpt-4o", provider="openai", status=status, requests=1,
        input_tokens=7, output_tokens=8, cached_input_tokens=0, cache_write_tokens=0, reasoning_tokens=0,
        cost_nano=198_000,
    )  # fmt: skip


def decision(environment: Environment, request_id: str) -> BlockedDecision:
    return BlockedDecision.objects.create(
        environment=environment, stream_id=request_id, decided_at=NOW, request_id=request_id, user_id="ann",
        feature="", plan="", run_id="", model="gpt-4o", reason_code="USER_BLOCKED", reason_class="forbidden",
        message=f"Blocked {request_id}.", policy_name="", limit_state=[],
    )  # fmt: skip


def price(tenant: Tenant | None, model: str) -> ModelPrice:
    return ModelPrice.objects.create(
        tenant=tenant,
        provider="openai",
        model=model,
        effective_from=NOW,
        input_per_million=1,
        output_per_million=2,
    )


def page(model: str, what: str, *arguments: Any) -> str:
    app = "policies" if model == "blockeddecision" else "usage"
    return reverse(f"admin:{app}_{model}_{what}", args=arguments)


def text(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def form(**fields: Any) -> dict[str, Any]:
    return {
        "provider": "openai", "model": "gpt-x", "aliases": "", "effective_from_0": "2026-01-01",
        "effective_from_1": "00:00", "input_per_million": "1", "output_per_million": "2", "tiers": "[]",
        "source": "manual", "active": "on",
    } | fields  # fmt: skip


def test_the_ledger_and_the_decisions_are_to_look_at(
    environment: Environment, superuser: Client, member: Client
) -> None:
    rows = [
        ("usageevent", event(environment, "r1")),
        ("blockeddecision", decision(environment, "r2")),
    ]
    for client in (superuser, member):
        for model, row in rows:
            assert str(row).split()[0] in text(client, page(model, "change", row.pk))
            assert client.post(page(model, "change", row.pk), {}).status_code == 403
            assert client.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
            assert client.get(page(model, "add")).status_code == 403
    assert "0.000198" in text(superuser, page("usageevent", "changelist"))


def test_a_stranger_sees_nothing_of_another_tenant(
    environment: Environment, other: Environment, member: Client, stranger: Client
) -> None:
    ours, theirs = event(environment, "our-request"), event(other, "their-request")
    blocked = decision(environment, "our-blocked")
    assert "our-request" in text(member, page("usageevent", "changelist"))
    assert "our-blocked" in text(member, page("blockeddecision", "changelist"))
    asked_for = f"?environment={environment.pk}"
    for url in (page("usageevent", "changelist"), page("blockeddecision", "changelist")):
        assert "our-" not in text(stranger, url)
        assert "our-" not in text(stranger, url + asked_for)
    assert stranger.get(page("usageevent", "change", ours.pk)).status_code == 302
    assert stranger.get(page("blockeddecision", "change", blocked.pk)).status_code == 302
    assert member.get(page("usageevent", "change", theirs.pk)).status_code == 302
    assert "acme" not in text(stranger, page("usageevent", "changelist"))


def test_the_ledger_page_shows_one_environment_and_counts_no_further_than_it_must(
    environment: Environment, superuser: Client
) -> None:
    event(environment, "in-prod")
    dev = environment.tenant.environments.get(slug="dev")
    event(dev, "in-dev")
    with CaptureQueriesContext(connection) as queries:
        shown = text(superuser, page("usageevent", "changelist") + f"?environment={dev}")
    assert "in-dev" in shown
    assert "in-prod" not in shown
    counts = [
        query["sql"] for query in queries if "COUNT(*)" in query["sql"] and "usage_event" in query["sql"]
    ]
    assert counts
    assert all("LIMIT 10001" in count for count in counts)


def test_requests_are_found_by_their_exact_id(environment: Environment, superuser: Client) -> None:
    event(environment, "request-1")
    event(environment, "request-12")
    url = page("usageevent", "changelist") + f"?environment={environment}&q=request-1"
    assert "request-12" not in text(superuser, url)


def test_a_shared_price_is_seen_by_all_and_changed_by_superusers(
    environment: Environment, other: Environment, superuser: Client, member: Client
) -> None:
    shared = price(None, "gpt-shared")
    url = page("modelprice", "change", shared.pk)
    assert "gpt-shared" in text(member, page("modelprice", "changelist"))
    assert "gpt-shared" in text(member, url)
    assert member.post(url, form()).status_code == 403

    before = environment.revision, other.revision
    assert superuser.post(url, form(input_per_million="1.5")).status_code == 302
    shared.refresh_from_db()
    assert shared.input_per_million == 1.5
    for changed in (environment, other):
        changed.refresh_from_db()
    assert (environment.revision, other.revision) == (before[0] + 1, before[1] + 1)
    entry = Entry.objects.get(action="price.changed")
    assert (entry.tenant_id, entry.actor) == (None, "admin:root")
    assert entry.data["changes"]["input_per_million"] == {"before": "1", "after": "1.5"}


def test_a_member_sets_prices_of_their_own_tenant_alone(
    environment: Environment, other: Environment, member: Client
) -> None:
    theirs = price(other.tenant, "gpt-theirs")
    add = page("modelprice", "add")
    for tenant in ("", other.tenant.pk):
        assert member.post(add, form(tenant=tenant)).status_code == 200
    assert ModelPrice.objects.count() == 1
    assert "Say why" in member.post(add, form(tenant=environment.tenant.pk)).content.decode()
    why = {"reason": "Our contract with the provider"}
    assert member.post(add, form(tenant=environment.tenant.pk, **why)).status_code == 302
    own = ModelPrice.objects.get(tenant=environment.tenant)
    entry = Entry.objects.get(action="price.added")
    assert entry.tenant_id == environment.tenant_id
    assert entry.data["reason"] == why["reason"]
    revisions = environment.revision, other.revision
    for changed in (environment, other):
        changed.refresh_from_db()
    assert (environment.revision, other.revision) == (revisions[0] + 1, revisions[1])

    shown = text(member, page("modelprice", "changelist"))
    assert "gpt-x" in shown
    assert "gpt-theirs" not in shown
    assert member.get(page("modelprice", "change", theirs.pk)).status_code == 302
    # The tenant of a price stays.
    member.post(page("modelprice", "change", own.pk), form(tenant=""))
    own.refresh_from_db()
    assert own.tenant == environment.tenant


def test_prices_are_listed_without_idle_zeros_and_say_since_when(superuser: Client) -> None:
    row = price(None, "gpt-shared")
    ModelPrice.objects.filter(pk=row.pk).update(
        effective_from=UNDATED, input_per_million="0.150000000", output_per_million=8
    )
    shown = text(superuser, page("modelprice", "changelist"))
    for cell in ("· shared<", ">0.15<", ">8.00<", ">always<", "USD per million"):
        assert cell in shown
    assert "1970" not in shown
    assert 'value="0.15"' in text(superuser, page("modelprice", "change", row.pk))


def test_a_ledger_row_says_what_it_cost_and_who_charged_it(environment: Environment, member: Client) -> None:
    own = price(environment.tenant, "gpt-4o")
    key, _ = ApiKey.issue(environment, "our-app", (EVALUATE,))
    row = event(environment, "r1")
    pairs = {"price_id": own.pk, "api_key_id": key.pk, "policy_id": uuid4(), "policy_version": 3}
    last = UsageEvent.objects.create(
        **{field.attname: getattr(row, field.attname) for field in UsageEvent._meta.concrete_fields}
        | pairs
        | {"id": None, "request_id": "r2"}
    )
    shown = text(member, page("usageevent", "change", last.pk))
    assert ">$0.000198<" in shown
    assert f'href="{page("modelprice", "change", own.pk)}"><bdi>openai/gpt-4o<' in shown
    assert f'href="{reverse("admin:tenants_apikey_change", args=[key.pk])}"><bdi>our-app<' in shown
    assert ", version 3<" in shown
    assert f'href="{reverse("admin:policy_versions", args=[pairs["policy_id"]])}?to=3#compared"' in shown
    arithmetic = re.search(r'href="([^"]*input_tokens=7[^"]*)">Work it out', shown)
    assert arithmetic is not None
    worked_out = text(member, unescape(arithmetic[1]))
    assert "What a call costs" in worked_out
    assert "<b>0.000023</b>" in worked_out, "7 input tokens at 1 USD per million, 8 output tokens at 2"
    for internal in ("nano", "Xid", "Price id", "Api key id"):
        assert internal not in shown


def test_what_was_not_reported_is_shown_as_what_it_held_with_the_rows_that_followed(
    environment: Environment, member: Client
) -> None:
    rows = {status: event(environment, "late", status) for status in ("unsettled", "reversal", "succeeded")}
    shown = {status: text(member, page("usageevent", "change", row.pk)) for status, row in rows.items()}
    assert "never reported" in shown["unsettled"]
    assert "What it held" in shown["unsettled"]
    assert "takes that back" in shown["reversal"]
    assert "What it used" in shown["succeeded"]
    for status, row in rows.items():
        links = {page("usageevent", "change", each.pk) for each in rows.values()} - {
            page("usageevent", "change", row.pk)
        }
        assert all(f'href="{link}"' in shown[status] for link in links)


def test_the_list_writes_numbers_and_ids_so_that_columns_line_up(
    environment: Environment, member: Client
) -> None:
    row = event(environment, "x" * 128)
    UsageEvent.objects.create(
        **{field.attname: getattr(row, field.attname) for field in UsageEvent._meta.concrete_fields}
        | {"id": None, "request_id": "large", "input_tokens": 1_234_567, "cost_nano": None}
    )
    shown = text(member, page("usageevent", "changelist"))
    assert '<span class="tv-number tv-amount" title="$0.000198">$0.000198</span>' in shown
    assert ">1,234,567</span>" in shown
    assert ">no price</span>" in shown
    assert f'<code class="tv-code tv-id" title="{"x" * 128}">' in shown


def test_every_status_has_its_words() -> None:
    assert all(wording.status(status) for status in Status)


def test_a_decision_shows_its_limits_as_they_stood(environment: Environment, member: Client) -> None:
    row = decision(environment, "r1")
    limit = {
        "policy": "<Free>", "metric": "requests", "window": "day", "per": "user",
        "limit": 5, "used": 5, "held": 0, "remaining": 0, "resets_at": None, "exceeded": True,
    }  # fmt: skip
    BlockedDecision.objects.filter(pk=row.pk).update(limit_state=[limit], estimated_cost_nano=60_000_000)
    shown = text(member, page("blockeddecision", "change", row.pk))
    assert "5 requests a day, each user" in shown
    assert "&lt;Free&gt;" in shown
    assert "5 requests a day, each user: 5 used, 0 held, 0 left" in shown
    assert "at most $0.06, as estimated before the call" in shown
    assert "Passed when asked again" not in shown
    assert "Stream id" not in shown


def test_the_list_and_the_explorer_say_which_rows_count_as_no_call(
    environment: Environment, member: Client
) -> None:
    api = Api(environment)
    for number in range(3):
        api.report(f"r-{number}", "ann", input_tokens=1_000, cached_input_tokens=400)
    api.report("r-failed", "ann", status="failed", input_tokens=0, output_tokens=0)
    more = "1 row more counts as no call: failed or cancelled before any token"

    listed = member.get(reverse("admin:usage_usageevent_changelist"), {"period": "today", "user": "ann"})
    assert listed.context["cl"].result_count == 4
    text = unescape(listed.content.decode())
    assert "In this period: 3 calls, 3,000 tokens in (1,200 of them cached)" in text
    assert more in text

    explored = unescape(member.get(reverse("admin:explorer"), {"period": "today"}).content.decode())
    assert f"3 calls; {more}" in explored


def test_cached_tokens_stand_below_the_input_they_are_a_part_of(
    environment: Environment, member: Client
) -> None:
    listed = reverse("admin:usage_usageevent_changelist")
    event(environment, "r-1")
    assert " cached</small>" not in member.get(listed).content.decode()
    Api(environment).report("r-2", "ann", input_tokens=1_000, cached_input_tokens=400)
    assert "400 cached</small>" in member.get(listed).content.decode()


def test_a_list_that_is_not_counted_to_its_end_says_more_than(
    environment: Environment, member: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROWS_COUNTED_MAX", 2)
    for number in range(2):
        event(environment, f"r-{number}")
    listed = reverse("admin:usage_usageevent_changelist")
    assert "more than" not in member.get(listed).content.decode()
    event(environment, "r-2")
    assert "more than 2 usage events" in " ".join(member.get(listed).content.decode().split())
