"""Every page of the console, wide and narrow, light and dark."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry
from policies import alert_events, boosts
from policies.end_users import set_end_user
from policies.files import policy_file
from policies.models import Alert, AlertEndpoint, AlertRule, BlockedDecision, Boost, Plan, Policy
from policies.replaying import jobs
from policies.replaying.jobs import Candidate
from tenants import freezing
from tenants.console.display import user_url
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import limits
from tokvigil_site.tests.browser.conftest import Console, Look
from usage.amounts import TOKENS_MAX
from usage.models import UsageEvent

pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥\t" + "x" * 60
LOOKS = [(dark, narrow) for dark in (False, True) for narrow in (False, True)]


def lists() -> list[str]:
    names = sorted(f"{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry)
    return [reverse("admin:index"), *(reverse(f"admin:{name}_changelist") for name in names)]


def faults_of(console: Console, paths: list[str]) -> dict[str, list[str]]:
    """Of the pages that have any."""
    found = {}
    for path in paths:
        console.open(path)
        if faults := console.faults():
            found[path] = faults
    return found


def prod_decision(prod: Environment) -> BlockedDecision:
    return BlockedDecision.objects.get(environment=prod)


@pytest.fixture
def prod() -> Environment:
    """With a hostile name wherever one can be given."""
    prod = Tenant.create_with_environments("acme", name=HOSTILE).environments.get(slug="prod")
    policy = Policy.objects.create(environment=prod, name=HOSTILE, ordinal=1, scope_user=HOSTILE)
    policy.limits.create(metric="requests", window="day", amount=5, per="user")
    # As publishing does.
    prod.tracked_pairs.create(per="user", window="day")
    Plan.objects.create(environment=prod, name=HOSTILE)
    ApiKey.issue(prod, HOSTILE, (EVALUATE,))[0].rotate(old_ends_at=timezone.now() + timedelta(days=1))
    state = {
        "policy": HOSTILE, "metric": "requests", "window": "day", "per": "user",
        "limit": 5, "used": 4, "held": 1, "remaining": 0, "resets_at": "2026-11-27T23:00:00Z", "exceeded": True,
    }  # fmt: skip
    BlockedDecision.objects.create(
        environment=prod, stream_id="1-1", decided_at=datetime.now(UTC), request_id=HOSTILE, user_id=HOSTILE,
        feature=HOSTILE, plan=HOSTILE, run_id=HOSTILE, model=HOSTILE, reason_code="DAILY_REQUEST_LIMIT_EXCEEDED",
        reason_class="exhausted", message=HOSTILE, policy_id=policy.pk, policy_name=HOSTILE, policy_version=1,
        limit_state=[state],
    )  # fmt: skip
    UsageEvent.objects.create(
        environment=prod, request_id=HOSTILE, charged_at=timezone.now(), recorded_at=timezone.now(), xid=1,
        user_id=HOSTILE, feature=HOSTILE, plan=HOSTILE, run_id=HOSTILE, model=HOSTILE, provider=HOSTILE,
        status="succeeded", requests=1, input_tokens=TOKENS_MAX, output_tokens=8, cached_input_tokens=1,
        cache_write_tokens=2, reasoning_tokens=3, cost_nano=198_001, metadata={HOSTILE: HOSTILE},
    )  # fmt: skip
    set_end_user(prod, HOSTILE, plan_name=HOSTILE, blocked=True, blocked_reason=HOSTILE, actor="test")
    ends_at = timezone.now() + timedelta(days=1)
    boost = Boost(
        environment=prod, per="user", subject=HOSTILE, metric="requests", window="day", extra=Decimal(5),
        reason=HOSTILE, ends_at=ends_at,
    )  # fmt: skip
    boosts.give(boost, actor="test")
    prod.tenant.model_prices.create(
        provider=HOSTILE, model=HOSTILE, aliases=[HOSTILE], effective_from=ends_at - timedelta(days=2),
        input_per_million=1, output_per_million=2, source=HOSTILE,
    )  # fmt: skip
    rule = AlertRule.objects.create(
        environment=prod, name=HOSTILE, event="limit.threshold", thresholds=[50, 80, 100], policy=policy
    )
    endpoint = AlertEndpoint.objects.create(
        environment=prod, name=HOSTILE, address="https://hooks.example.com/" + "x" * 100, salt=b"salt",
        pepper_id="1", events=[*alert_events.IN_WORDS],
    )  # fmt: skip
    alert = Alert.objects.create(
        environment=prod, rule=rule, rule_name=HOSTILE, event=rule.event, about="a", threshold=80,
        window_start=timezone.now(), fired_at=timezone.now(), title=HOSTILE, text=HOSTILE, data={"subject": HOSTILE},
    )  # fmt: skip
    alert.deliveries.create(endpoint=endpoint, state="dead", attempts=9, last_error=HOSTILE)
    freezing.freeze(prod, features=[HOSTILE], reason=HOSTILE, actor="test")
    nothing = limits("{metric: requests, window: day, amount: 0, per: user}")
    candidate = Candidate(policies=policy_file.parse("version: 1\n" + nothing), source=HOSTILE)
    period = (timezone.now() - timedelta(days=1), ends_at)
    jobs.ask(prod, candidate, *period, actor="test")
    jobs.run_next()
    jobs.ask(prod, candidate, *period, actor="test")
    return prod


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_every_list_is_well(look: Look, prod: Environment, dark: bool, narrow: bool) -> None:
    console = look(dark=dark, narrow=narrow)
    assert faults_of(console, lists()) == {}


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_every_form_is_well(look: Look, prod: Environment, dark: bool, narrow: bool) -> None:
    console = look(prod.tenant, dark=dark, narrow=narrow)
    policy, plan = prod.policies.get(), prod.plans.get()
    forms = [
        reverse("admin:policies_policy_add"),
        reverse("admin:policies_policy_change", args=[policy.pk]),
        reverse("admin:policies_policy_edit", args=[policy.pk]),
        reverse("admin:policies_policy_mode", args=[policy.pk]) + "?mode=off",
        reverse("admin:policies_policy_delete", args=[policy.pk]),
        reverse("admin:policies_policy_history", args=[policy.pk]),
        reverse("admin:policies_plan_change", args=[plan.pk]),
        reverse("admin:tenants_apikey_add"),
        *(
            reverse(f"admin:tenants_apikey_{what}", args=[prod.api_keys.get().pk])
            for what in ("change", "rotate", "revoke", "end_old_secret")
        ),
        reverse("admin:tenants_environment_change", args=[prod.pk]),
        reverse("admin:policies_blockeddecision_change", args=[prod_decision(prod).pk]),
        f"{reverse('admin:explorer')}?environment={prod}&period=30d&by=user&then=model",
        f"{reverse('admin:explorer')}?environment={prod}&period=30d&step=none&show=tokens",
        f"{reverse('admin:saved_views')}?environment={prod}&by=user",
        reverse("admin:usage_usageevent_change", args=[UsageEvent.objects.get(environment=prod).pk]),
        reverse("admin:audit_entry_change", args=[Entry.objects.latest("pk").pk]),
        reverse("admin:audit_entry_check"),
        reverse("admin:password_change"),
        user_url(prod, HOSTILE),
        reverse("admin:policies_boost_add"),
        reverse("admin:policies_boost_change", args=[prod.boosts.get().pk]),
        reverse("admin:policies_boost_end", args=[prod.boosts.get().pk]),
        reverse("admin:policies_alert_change", args=[prod.alerts.get().pk]),
        reverse("admin:policies_alertrule_add"),
        reverse("admin:policies_alertrule_change", args=[prod.alert_rules.get().pk]),
        reverse("admin:policies_alertendpoint_add"),
        reverse("admin:policies_alertendpoint_change", args=[prod.alert_endpoints.get().pk]),
        reverse("admin:policies_alertendpoint_rotate", args=[prod.alert_endpoints.get().pk]),
        reverse("admin:freeze"),
        reverse("admin:unfreeze", query={"environment": str(prod), "feature": HOSTILE}),
        reverse("admin:policy_replays"),
        f"{reverse('admin:suggested_limits')}?metric=cost_usd&of=money",
        *(reverse("admin:policy_replay", args=[replay.pk]) for replay in prod.replays.all()),
        reverse("admin:limits"),
        reverse("admin:limit_subjects", args=[policy.pk, "requests", "day", "user"]),
        reverse("admin:month_report"),
        reverse("admin:budgets"),
        reverse("admin:blocked"),
        reverse("admin:health"),
        reverse("admin:search"),
        f"{reverse('admin:search')}?{urlencode({'q': HOSTILE})}",
        reverse("admin:usage_modelprice_change", args=[prod.tenant.model_prices.get().pk]),
    ]
    assert faults_of(console, forms) == {}


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_signing_in_is_well(look: Look, dark: bool, narrow: bool) -> None:
    console = look(dark=dark, narrow=narrow, signed_in=False)
    assert faults_of(console, [reverse("admin:login")]) == {}


def test_the_environment_is_switched_by_keyboard(look: Look, prod: Environment) -> None:
    console = look(prod.tenant)
    page = console.open(reverse("admin:policies_policy_changelist"))
    page.get_by_role("group").filter(has_text="prod").locator("summary").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="dev", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/policy/?environment=acme/dev")
    assert page.locator("summary[data-environment]").inner_text().split()[1] == "dev"
    assert console.faults() == []


def test_the_navigation_opens_on_a_narrow_screen(look: Look, prod: Environment) -> None:
    page = look(prod.tenant, narrow=True).open(reverse("admin:index"))
    navigation = page.locator("nav[aria-label=Console]")
    assert not navigation.is_visible()
    page.get_by_role("button", name="Open the navigation").click()
    navigation.get_by_role("link", name="Policies").click()
    page.wait_for_url("**/policies/policy/")


def test_a_slash_goes_to_the_search(look: Look, prod: Environment) -> None:
    console = look(prod.tenant)
    page = console.open(reverse("admin:index"))
    page.keyboard.press("/")
    page.keyboard.type("a/b")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search/?q=a%2Fb&environment=acme%2Fprod")
    assert page.get_by_text("There is nothing with this id or name in acme/prod").is_visible()
    assert console.faults() == []


def test_on_a_list_too_a_slash_goes_to_the_search_of_the_header(look: Look, prod: Environment) -> None:
    page = look(prod.tenant).open(reverse("admin:tenants_apikey_changelist"))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "console-search"
    assert page.locator("kbd").get_by_text("/", exact=True).count() == 1
    page.get_by_role("searchbox", name="Search the list").fill("no such key")
    page.keyboard.press("Enter")
    page.wait_for_url("**/apikey/?q=no+such+key")


def test_a_boost_shows_what_becomes_of_the_limit(look: Look, prod: Environment) -> None:
    page = look(prod.tenant).open(reverse("admin:policies_boost_add"))
    page.select_option("#id_raises", index=1)
    page.get_by_label("Extra").fill("20")
    assert page.locator("output").inner_text().endswith(": 5 → 25 a day")
    limits = json.loads(page.locator("#id_raises").get_attribute("data-limits") or "")
    chosen = limits[page.locator("#id_raises").input_value()]
    assert [*chosen["windows"]] == ["hour", "today", "friday", "month"]
    for until, met in chosen["windows"].items():
        page.select_option("#id_until", until)
        once = page.locator("#id_until option").nth(2).inner_text()
        more = f" · {20 * met} more in all: anew in each of {met} windows. For 20 in all choose “{once}”"
        in_all = more if met > 1 else ""
        assert page.locator("output").inner_text().endswith(f": 5 → 25 a day{in_all}"), until


def test_a_question_goes_when_its_field_is_changed(look: Look, prod: Environment) -> None:
    page = look(prod.tenant).open(reverse("admin:policies_boost_add"))
    page.select_option("#id_raises", index=1)
    page.get_by_label("Who").fill("nobody")
    page.get_by_label("Extra").fill("20")
    page.select_option("#id_until", "today")
    page.get_by_label("Reason").fill("A pilot")
    page.get_by_role("button", name="Save", exact=True).click()
    question = page.get_by_text("No call of the user “nobody” was seen here")
    question.wait_for()
    assert page.get_by_text("Nothing is saved yet: there is a question below.").is_visible()

    page.get_by_label("Who").fill("ana")
    page.get_by_label("Extra").focus()

    assert not question.is_visible()
    assert page.get_by_text("Nothing is saved yet.", exact=True).is_visible()


def test_a_form_is_sent_by_the_first_click_after_its_question_was_answered(
    look: Look, prod: Environment
) -> None:
    """The field changes while the button is pressed, which must not move."""
    console = look(prod.tenant)
    page = console.open(f"{reverse('admin:freeze')}?environment={prod}")
    # Where nothing scrolls, what moves is not held in its place.
    page.set_viewport_size({"width": 1440, "height": 2000})
    page.locator("#id_feature").fill("nothing-like-it")
    page.get_by_label("Reason").fill("It runs away")
    page.get_by_role("button", name="Freeze", exact=True).click()
    page.get_by_text("No call of the feature “nothing-like-it” was seen here").wait_for()
    page.locator("#id_feature").select_text()
    page.keyboard.type("another")
    box = page.get_by_role("button", name="Freeze", exact=True).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, delay=100)
    page.get_by_text("No call of the feature “another” was seen here").wait_for()


def test_filters_stand_behind_a_line_where_the_page_is_narrow(look: Look, prod: Environment) -> None:
    url = f"{reverse('admin:policies_blockeddecision_changelist')}?environment={prod}&user=ana&model=o3"
    console = look(prod.tenant, narrow=True)
    page = console.open(url)
    feature = page.get_by_label("Feature")
    assert not feature.is_visible()
    page.get_by_text("Filters (2 set)").click()
    assert feature.is_visible()
    assert console.faults() == []

    page = look(prod.tenant).open(url)
    assert page.get_by_label("Feature").is_visible()
    assert not page.get_by_text("Filters (2 set)").is_visible()


def test_a_refused_form_is_shown_at_its_first_error(look: Look, prod: Environment) -> None:
    page = look(prod.tenant, narrow=True).open(reverse("admin:usage_modelprice_add"))
    page.fill("#id_provider", "openai")
    page.fill("#id_model", "o9")
    page.fill("#id_input_per_million", "1")
    page.fill("#id_output_per_million", "2")
    page.get_by_role("button", name="Save", exact=True).click()
    error = page.get_by_text("Say why the price is this one.")
    error.wait_for()
    page.wait_for_function("document.activeElement.id === 'id_reason'")
    box = error.bounding_box()
    assert box is not None
    assert 0 < box["y"] < 800


def test_an_alert_endpoint_is_switched_off_and_tested(look: Look, prod: Environment) -> None:
    endpoint = prod.alert_endpoints.get()
    page = look(prod.tenant).open(reverse("admin:policies_alertendpoint_change", args=[endpoint.pk]))
    page.get_by_role("button", name="Send a test").click()
    page.get_by_text("The test did not arrive.").wait_for()
    page.get_by_label("Active").uncheck()
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/alertendpoint/")
    endpoint.refresh_from_db()
    assert not endpoint.active
