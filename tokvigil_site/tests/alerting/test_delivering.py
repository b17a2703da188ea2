"""Deliveries: signed, tried again with growing pauses, given up in the end, and sent again by hand."""

from __future__ import annotations

import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.core import mail
from django.test import override_settings
from django.utils import timezone
from standardwebhooks import Webhook, WebhookVerificationError

from policies.alerting import delivering, endpoints, firing, sending
from policies.alerting.sending import NotSent
from policies.models import Alert, AlertDelivery, AlertEndpoint
from tenants.models import Environment
from tokvigil_site.testing import at_once
from tokvigil_site.tests.alerting.conftest import new_endpoint
from tokvigil_site.tests.alerting.receiver import Receiver


def new_alert(environment: Environment, title: str = "80 % of a limit") -> Alert:
    """One that fired now, in the queue of each endpoint."""
    now = timezone.now()
    alert = Alert.objects.create(
        environment=environment, rule_name="Rule", event="limit.threshold", about=title, threshold=80,
        window_start=now, fired_at=now, title=title, text="8 of 10 used.", data={"percent": 80},
    )  # fmt: skip
    firing.tell(environment.pk, [alert])
    return alert


def the_delivery() -> AlertDelivery:
    return AlertDelivery.objects.get()


def test_a_receiver_that_fails_five_times_gets_it_on_the_sixth(
    environment: Environment, receiver: Receiver
) -> None:
    new_endpoint(environment, receiver.url)
    new_alert(environment)
    receiver.answers = [500, 503, 404, 429, 502]
    now = timezone.now()
    pauses = []
    for attempt in range(1, 7):
        assert delivering.deliver_due(now) == (attempt == 6)
        assert len(receiver.received) == attempt
        delivery = the_delivery()
        pauses.append(delivery.next_attempt_at - now)
        assert delivering.deliver_due(delivery.next_attempt_at - timedelta(seconds=1)) == 0
        assert len(receiver.received) == attempt, "not before its time"
        now = delivery.next_attempt_at
    assert (delivery.state, delivery.attempts, delivery.response_status) == ("delivered", 6, 204)
    assert delivery.last_error == ""
    assert all(after > before * 2 for before, after in pairwise(pauses[:5])), pauses
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1


def test_it_is_given_up_after_the_last_attempt_and_sent_again_by_hand(
    environment: Environment, receiver: Receiver
) -> None:
    new_endpoint(environment, receiver.url)
    new_alert(environment)
    receiver.answers = [500] * delivering.ATTEMPTS_MAX
    now = timezone.now()
    for _ in range(delivering.ATTEMPTS_MAX + 2):
        delivering.deliver_due(now)
        now += timedelta(days=1)
    delivery = the_delivery()
    assert (delivery.state, delivery.attempts) == ("dead", delivering.ATTEMPTS_MAX)
    assert "500" in delivery.last_error
    assert len(receiver.received) == delivering.ATTEMPTS_MAX

    assert endpoints.redeliver(delivery, actor="test")
    assert delivering.deliver_due() == 1
    assert the_delivery().state == "delivered"
    assert receiver.received[-1].headers["webhook-id"] == receiver.received[0].headers["webhook-id"]


def test_the_signature_verifies_with_the_public_package(environment: Environment, receiver: Receiver) -> None:
    _, secret = new_endpoint(environment, receiver.url)
    new_alert(environment, "Größer als “erwartet” ✓")
    delivering.deliver_due()
    (told,) = receiver.received
    said = Webhook(secret).verify(told.body, told.headers)
    assert said["data"]["title"] == "Größer als “erwartet” ✓"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(told.body + b" ", told.headers)
    other = "whsec_" + "A" * 43 + "="
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(told.body, told.headers)


def test_each_attempt_is_signed_with_its_own_time(environment: Environment, receiver: Receiver) -> None:
    _, secret = new_endpoint(environment, receiver.url)
    new_alert(environment)
    # It fired hours ago; a receiver refuses times that are minutes old.
    Alert.objects.update(fired_at=timezone.now() - timedelta(hours=5))
    delivering.deliver_due()
    Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)


def test_after_a_rotation_both_secrets_verify_until_the_old_one_ends(
    environment: Environment, receiver: Receiver
) -> None:
    endpoint, old = new_endpoint(environment, receiver.url)
    new = endpoints.rotate(endpoint, actor="test")
    assert new != old
    new_alert(environment, "one")
    delivering.deliver_due()
    for secret in (old, new):
        Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)
    AlertEndpoint.objects.update(previous_ends_at=timezone.now() - timedelta(seconds=1))
    new_alert(environment, "two")
    delivering.deliver_due()
    Webhook(new).verify(receiver.received[1].body, receiver.received[1].headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(receiver.received[1].body, receiver.received[1].headers)


@override_settings(API_KEY_PEPPERS={"2": "another"})
def test_a_secret_whose_pepper_is_gone_signs_nothing(environment: Environment, receiver: Receiver) -> None:
    new_endpoint(environment, receiver.url)
    AlertEndpoint.objects.update(pepper_id="1")
    new_alert(environment)
    delivering.deliver_due()
    assert receiver.received == []
    assert the_delivery().state == "dead"
    assert "rotate" in the_delivery().last_error


def test_workers_at_once_send_each_delivery_once(environment: Environment, receiver: Receiver) -> None:
    new_endpoint(environment, receiver.url)
    for number in range(20):
        new_alert(environment, f"alert {number}")
    arrived = at_once(4, lambda number: delivering.deliver_due(), threads=4)
    assert sum(arrived) == 20
    assert len({each.headers["webhook-id"] for each in receiver.received}) == len(receiver.received) == 20


def test_what_a_dead_worker_took_is_sent_by_another_after_the_lease(
    environment: Environment, receiver: Receiver
) -> None:
    new_endpoint(environment, receiver.url)
    new_alert(environment)
    now = timezone.now()
    assert delivering._claimed(now, ()) is not None
    assert delivering.deliver_due(now + delivering.LEASE / 2) == 0
    assert delivering.deliver_due(now + delivering.LEASE) == 1


def test_an_endpoint_that_fails_does_not_hold_up_others(environment: Environment, receiver: Receiver) -> None:
    dead, _ = new_endpoint(environment, receiver.url, name="dead")
    new_endpoint(environment, receiver.url, name="slack", kind="slack")
    for number in range(3):
        new_alert(environment, f"alert {number}")
    AlertDelivery.objects.filter(endpoint=dead).update(next_attempt_at=datetime(2020, 1, 1, tzinfo=UTC))
    receiver.answers = [500]
    assert delivering.deliver_due() == 3
    assert AlertDelivery.objects.filter(endpoint=dead, attempts=1).count() == 1


def test_a_receiver_that_asks_to_wait_is_waited_for(environment: Environment, receiver: Receiver) -> None:
    new_endpoint(environment, receiver.url)
    new_alert(environment)
    receiver.answers = [(503, {"Retry-After": "3600"})]
    now = timezone.now()
    delivering.deliver_due(now)
    assert the_delivery().next_attempt_at >= now + timedelta(hours=1)


def test_a_receiver_that_is_gone_is_not_tried_again(environment: Environment, receiver: Receiver) -> None:
    new_endpoint(environment, receiver.url)
    new_alert(environment)
    receiver.answers = [410]
    delivering.deliver_due()
    assert the_delivery().state == "dead"


def test_redirects_are_not_followed(environment: Environment, receiver: Receiver) -> None:
    new_endpoint(environment, receiver.url)
    new_alert(environment)
    receiver.answers = [(302, {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"})]
    delivering.deliver_due()
    assert [each.path for each in receiver.received] == ["/hooks/1?team=a"]
    assert "redirects are not followed" in the_delivery().last_error


def test_a_receiver_that_never_answers_is_left_at_the_deadline(environment: Environment) -> None:
    """It sends a byte of its headers now and then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stop = threading.Event()

        def drip() -> None:
            line, _ = server.accept()
            with line:
                while not stop.wait(0.1):
                    try:
                        line.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with override_settings(ALERT_PRIVATE_TARGETS=[f"127.0.0.1:{port}"]):
            begun = time.monotonic()
            with pytest.raises(NotSent, match="did not answer within 1 s"):
                sending.post(f"http://127.0.0.1:{port}/", b"{}", {}, within_s=1)
        assert time.monotonic() - begun < 3
        stop.set()
        thread.join(timeout=5)


def test_slack_gets_a_text_in_which_nothing_becomes_a_link_or_a_mention(
    environment: Environment, receiver: Receiver
) -> None:
    new_endpoint(environment, receiver.url, kind="slack")
    new_alert(environment, "<!channel> & <https://evil.example|here>")
    delivering.deliver_due()
    (told,) = receiver.received
    assert set(told.json) == {"text"}
    assert "&lt;!channel&gt; &amp; &lt;https" in told.json["text"]
    assert "webhook-signature" not in told.headers


def test_mail_says_what_fired(environment: Environment) -> None:
    new_endpoint(environment, "ops@example.com, cfo@example.com", kind="email")
    new_alert(environment)
    with override_settings(EMAIL_IS_SET=True, CONSOLE_URL="https://tokvigil.example.com"):
        assert delivering.deliver_due() == 1
    (sent,) = mail.outbox
    assert sent.to == ["ops@example.com", "cfo@example.com"]
    assert sent.subject == "[TokVigil acme/prod] 80 % of a limit"
    assert "8 of 10 used." in sent.body
    assert f"https://tokvigil.example.com/admin/policies/alert/{Alert.objects.get().pk}/change/" in sent.body


def test_without_a_mail_server_mail_fails_and_says_why(environment: Environment) -> None:
    new_endpoint(environment, "ops@example.com", kind="email")
    new_alert(environment)
    assert delivering.deliver_due() == 0
    assert "EMAIL_URL is not set" in the_delivery().last_error
    assert mail.outbox == []


def test_pauses_grow_to_six_hours_and_scatter() -> None:
    assert [int(delivering.pause(attempts).total_seconds()) for attempts in range(1, 9)] == [
        10, 40, 160, 640, 2560, 10240, 21600, 21600
    ]  # fmt: skip
    assert delivering.pause(1, jitter=-1) == timedelta(seconds=8)
    assert delivering.pause(1, jitter=1) == timedelta(seconds=12)
    assert delivering.pause(1, asked_s=10**9) == delivering.PAUSE_MAX
