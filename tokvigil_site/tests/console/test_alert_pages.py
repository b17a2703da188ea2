"""Pages of alerts: rules, endpoints whose secret is shown once, and what fired."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry
from policies.alert_events import IN_WORDS
from policies.alerting import observing
from policies.models import Alert, AlertEndpoint, AlertRule, Policy
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import apply_policies, limits
from tokvigil_site.tests.alerting.conftest import new_endpoint, new_rule, receiver
from tokvigil_site.tests.alerting.receiver import Receiver
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import submit

__all__ = ["receiver"]
pytestmark = pytest.mark.django_db

LIST_RULES = reverse("admin:policies_alertrule_changelist")
ADD_RULE, ADD_ENDPOINT = (reverse(f"admin:policies_alert{noun}_add") for noun in ("rule", "endpoint"))
SLACK = "https://93.184.215.14/services/T0/B0/very-secret"


def page(noun: str, row: Any, what: str = "change") -> str:
    return reverse(f"admin:policies_{noun}_{what}", args=[row.pk])


@pytest.fixture
def client(sign_in: SignIn, acme: Tenant) -> Client:
    return sign_in("edi", acme, role=Role.EDITOR)


def endpoint_form(prod: Environment, **fields: Any) -> dict[str, Any]:
    known = {"environment": prod.pk, "name": "Hook", "kind": "webhook", "events": [*IN_WORDS], "active": "on"}
    return {**known, **fields}


def test_the_secret_of_a_webhook_is_shown_once(client: Client, prod: Environment, receiver: Receiver) -> None:
    answer = client.post(ADD_ENDPOINT, endpoint_form(prod, address=receiver.url)).content.decode()
    secret = answer.split('id="secret">')[1].split("<")[0]
    assert secret.startswith("whsec_")
    endpoint = AlertEndpoint.objects.get()
    for url in (page("alertendpoint", endpoint), page("alertendpoint", endpoint, "rotate")):
        assert "whsec_" not in client.get(url).content.decode()
    rotated = client.post(page("alertendpoint", endpoint, "rotate")).content.decode()
    assert "whsec_" in rotated
    assert secret not in rotated
    assert "whsec_" not in str(list(Entry.objects.values()))


def test_a_target_that_is_not_public_is_refused_beside_the_field_and_kept(
    client: Client, prod: Environment
) -> None:
    text = "https://169.254.169.254/latest/"
    answer = client.post(ADD_ENDPOINT, endpoint_form(prod, address=text))
    assert answer.status_code == 200
    errors = answer.context["adminform"].form.errors
    assert "no public address" in errors["address"][0]
    assert f'value="{text}"' in answer.content.decode()
    assert not AlertEndpoint.objects.exists()


def test_the_url_of_an_endpoint_is_for_who_may_change_it(
    sign_in: SignIn, acme: Tenant, prod: Environment, client: Client
) -> None:
    endpoint, _ = new_endpoint(prod, SLACK, kind="slack")
    assert SLACK in client.get(page("alertendpoint", endpoint)).content.decode()
    viewer = sign_in("vi", acme, role=Role.VIEWER)
    for url in (page("alertendpoint", endpoint), reverse("admin:policies_alertendpoint_changelist")):
        shown = viewer.get(url).content.decode()
        assert "93.184.215.14" in shown
        assert "very-secret" not in shown
    submit(client, page("alertendpoint", endpoint), address=SLACK.replace("B0", "B1"))
    assert "very-secret" not in str(list(Entry.objects.values()))
    assert "address" in Entry.objects.latest("pk").data["changes"]


def test_a_test_says_what_came_of_it(client: Client, prod: Environment, receiver: Receiver) -> None:
    endpoint, _ = new_endpoint(prod, receiver.url)
    receiver.answers = [500]
    url = page("alertendpoint", endpoint, "test")
    assert "did not arrive. Answered 500" in client.post(url, follow=True).content.decode()
    assert "The test arrived. It answered 204." in client.post(url, follow=True).content.decode()
    assert [each.json["type"] for each in receiver.received] == ["alert.test"] * 2
    assert client.get(url).status_code == 405


def alert_of(prod: Environment, **fields: Any) -> Alert:
    now = timezone.now()
    known = {
        "rule_name": "Budgets", "event": "limit.threshold", "about": "a", "threshold": 80, "window_start": now,
        "fired_at": now, "title": "80 % of a budget", "text": "$8.00 of $10.00 a month used.", "data": {"percent": 80},
    }  # fmt: skip
    return Alert.objects.create(environment=prod, **{**known, **fields})


def test_a_dead_letter_is_found_read_and_sent_again(
    client: Client, prod: Environment, receiver: Receiver
) -> None:
    endpoint, _ = new_endpoint(prod, receiver.url)
    dead, fine = alert_of(prod, title="dead"), alert_of(prod, title="fine", about="b")
    delivery = dead.deliveries.create(endpoint=endpoint, state="dead", attempts=9, last_error="Answered 500.")
    fine.deliveries.create(endpoint=endpoint, state="delivered", attempts=1)
    listed = client.get(reverse("admin:policies_alert_changelist") + "?delivery=dead").content.decode()
    assert page("alert", dead) in listed
    assert page("alert", fine) not in listed
    assert "Answered 500." in client.get(page("alert", dead)).content.decode()
    answer = client.post(page("alert", dead, "redeliver"), {"delivery": delivery.pk}, follow=True)
    assert "It is sent to Hook again" in answer.content.decode()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("pending", 0)


def test_a_delivery_of_another_alert_is_not_sent_again(
    client: Client, prod: Environment, receiver: Receiver
) -> None:
    endpoint, _ = new_endpoint(prod, receiver.url)
    one, two = alert_of(prod), alert_of(prod, about="b")
    delivery = two.deliveries.create(endpoint=endpoint, state="dead")
    for chosen in (delivery.pk, "x", "", "9" * 30):
        assert client.post(page("alert", one, "redeliver"), {"delivery": chosen}).status_code == 404


def test_a_viewer_sees_alerts_and_changes_nothing(
    sign_in: SignIn, acme: Tenant, prod: Environment, receiver: Receiver
) -> None:
    endpoint, _ = new_endpoint(prod, receiver.url)
    rule, alert = new_rule(prod), alert_of(prod)
    delivery = alert.deliveries.create(endpoint=endpoint, state="dead")
    viewer = sign_in("vi", acme, role=Role.VIEWER)
    for noun, row in (("alert", alert), ("alertrule", rule), ("alertendpoint", endpoint)):
        shown = viewer.get(page(noun, row))
        assert shown.status_code == 200
        assert "Redeliver" not in shown.content.decode()
        assert "Send a test" not in shown.content.decode()
    for url, body in (
        (page("alert", alert, "redeliver"), {"delivery": delivery.pk}),
        (page("alertendpoint", endpoint, "test"), {}),
        (page("alertendpoint", endpoint, "rotate"), {}),
        (page("alertrule", rule, "delete"), {"post": "yes"}),
        (ADD_RULE, {}),
        (ADD_ENDPOINT, {}),
    ):
        assert viewer.post(url, body).status_code == 403, url
    assert receiver.received == []


def test_a_rule_watches_one_limit_of_a_policy(client: Client, prod: Environment) -> None:
    apply_policies(
        prod, limits('{metric: cost_usd, window: month, amount: "5.00", per: environment}', name="Trial")
    )
    policy = Policy.objects.get()
    one = f"{policy.pk}|cost_usd|month|environment"
    submit(client, ADD_RULE, name="Trial", event="limit.threshold", watches=one, thresholds="100, 80,80")
    rule = AlertRule.objects.get()
    assert (rule.policy, rule.metric, rule.window, rule.per) == (policy, "cost_usd", "month", "environment")
    assert rule.thresholds == [80, 100]
    opened = client.get(page("alertrule", rule)).content.decode()
    assert f'value="{one}" selected' in opened
    assert "$5.00 a month, everybody together" in html.unescape(opened)
    submit(client, page("alertrule", rule), watches="|cost_usd||")
    rule.refresh_from_db()
    assert (rule.policy, rule.metric, rule.window, rule.per) == (None, "cost_usd", "", "")


def test_a_rule_watches_the_limit_on_some_models_and_not_that_on_all(
    client: Client, prod: Environment
) -> None:
    row = "{{metric: requests, window: day, amount: {0}, per: environment{1}}}"
    apply_policies(prod, limits(row.format(4, ""), row.format(2, ", models: [gpt-5*, o3]"), name="Trial"))
    one = f"{Policy.objects.get().pk}|requests|day|environment|gpt-5*,o3"
    submit(client, ADD_RULE, name="Trial", event="limit.threshold", watches=one, thresholds="50")
    rule = AlertRule.objects.get()

    assert rule.models == ["gpt-5*", "o3"]
    assert f'value="{one}" selected' in client.get(page("alertrule", rule)).content.decode()
    readings, complete = observing.limits_of(observing.of_limits(prod), rule)
    assert ([each.limit for each in readings], complete) == ([2], True)
    # It goes on when the list of models is edited, and still leaves that on all models alone.
    apply_policies(prod, limits(row.format(4, ""), row.format(3, ", models: [gpt-6*]"), name="Trial"))
    readings, _ = observing.limits_of(observing.of_limits(prod), rule)
    assert [each.limit for each in readings] == [3]
    assert "requests a day with gpt-5* and o3" in client.get(LIST_RULES).content.decode()


def test_a_rule_of_another_tenants_policy_is_refused(
    client: Client, prod: Environment, other: Tenant
) -> None:
    theirs = other.environments.get(slug="prod")
    apply_policies(theirs, limits("{metric: requests, window: day, amount: 5, per: environment}"))
    policy = Policy.objects.get(environment=theirs)
    answer = client.post(
        ADD_RULE,
        {
            "environment": prod.pk,
            "name": "x",
            "event": "limit.threshold",
            "watches": f"{policy.pk}|||",
            "thresholds": "80",
            "minimum_usd": "1",
        },
    )
    assert "watches" in answer.context["adminform"].form.errors
    assert not AlertRule.objects.exists()


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"thresholds": ""}, "thresholds", "at least one percentage"),
        ({"thresholds": "eighty"}, "thresholds", "whole number"),
        ({"thresholds": "0"}, "thresholds", "greater than or equal to 1"),
        ({"event": "calls.blocked_spike", "thresholds": "120"}, "thresholds", "at most 100"),
        ({"name": "taken"}, "name", "already"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_beside_its_field(
    client: Client, prod: Environment, fields: dict[str, str], field: str, says: str
) -> None:
    new_rule(prod, name="taken")
    known = {
        "environment": prod.pk,
        "name": "x",
        "event": "limit.threshold",
        "thresholds": "80",
        "minimum_usd": "1",
    }
    answer = client.post(ADD_RULE, {**known, **fields})
    assert says in " ".join(answer.context["adminform"].form.errors[field])


def test_empty_lists_say_what_to_do_next(client: Client, prod: Environment) -> None:
    for noun, says in (
        ("alert", "Nothing is watched yet"),
        ("alertrule", "Make a rule"),
        ("alertendpoint", "Make an endpoint"),
    ):
        assert says in client.get(reverse(f"admin:policies_{noun}_changelist")).content.decode()


def text(answer: Any) -> str:
    return html.unescape(answer.content.decode())


@pytest.mark.parametrize("is_set", [False, True])
def test_where_no_mail_can_be_sent_the_form_the_page_and_both_lists_say_so(
    client: Client, prod: Environment, settings: Any, is_set: bool
) -> None:
    settings.EMAIL_IS_SET = is_set
    endpoint, _ = new_endpoint(prod, "ops@example.com", kind="email", name="Mail")
    alert_of(prod).deliveries.create(endpoint=endpoint)
    for url in (
        ADD_ENDPOINT,
        page("alertendpoint", endpoint),
        reverse("admin:policies_alertendpoint_changelist"),
        reverse("admin:policies_alert_changelist"),
    ):
        assert ("EMAIL_URL is not set" in text(client.get(url))) is not is_set, url


def test_a_webhook_hears_nothing_of_mail(client: Client, prod: Environment, receiver: Receiver) -> None:
    new_endpoint(prod, receiver.url)
    assert "EMAIL_URL" not in text(client.get(reverse("admin:policies_alertendpoint_changelist")))


def test_the_page_of_a_rule_says_who_is_told(client: Client, prod: Environment, receiver: Receiver) -> None:
    rule = new_rule(prod)
    assert "Nobody yet" in text(client.get(page("alertrule", rule)))
    new_endpoint(prod, receiver.url, name="Takes it", events=[rule.event])
    new_endpoint(prod, receiver.url, name="Takes another", events=["spend.anomaly"])
    new_endpoint(prod, receiver.url, name="Is off", active=False)
    told = [each.name for each, _, _ in client.get(page("alertrule", rule)).context["told"]]
    assert told == ["Takes it"]


def test_the_list_says_of_a_lower_threshold_that_it_was_not_sent(client: Client, prod: Environment) -> None:
    alert_of(prod, is_quiet=True)
    listed = text(client.get(reverse("admin:policies_alert_changelist")))
    assert "Not sent: a higher threshold was reached too, and its alert is sent" in listed
    assert "Not over yet" in listed
