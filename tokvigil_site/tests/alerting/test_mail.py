"""E-mail of alerts to a real mail server on loopback: what arrives there, and what happens if it does not take it."""

from __future__ import annotations

import email
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import Message
from email.policy import default

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from django.test import override_settings
from django.utils import timezone

from policies.alerting import delivering
from policies.models import AlertDelivery
from tenants.models import Environment
from tokvigil_site.embedded import ports
from tokvigil_site.tests.alerting.conftest import new_endpoint
from tokvigil_site.tests.alerting.test_delivering import new_alert, the_delivery

State = AlertDelivery.State
UNKNOWN = "nobody@example.com"


@dataclass(slots=True)
class MailServer:
    """Takes all mail but that of UNKNOWN, if `answers` has nothing else to say next."""

    received: list[tuple[list[str], Message]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == UNKNOWN:
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answers:
            return self.answers.pop(0)
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=default)
        self.received.append((envelope.rcpt_tos, message))
        return "250 OK"


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    server = MailServer()
    controller = Controller(server, hostname="127.0.0.1", port=ports.pick_free())
    controller.start()
    try:
        with _mailing_to(controller.port):
            yield server
    finally:
        controller.stop()


def _mailing_to(port: int) -> override_settings:
    return override_settings(
        EMAIL_IS_SET=True,
        EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=port,
        CONSOLE_URL="https://tokvigil.example.com",
    )


def test_an_alert_arrives_at_all_recipients(environment: Environment, mail_server: MailServer) -> None:
    new_endpoint(environment, "ops@example.com, cfo@example.com", kind="email")
    new_alert(environment, "80 % of ünser Budget 🚨")

    assert delivering.deliver_due() == 1

    ((recipients, message),) = mail_server.received
    assert recipients == ["ops@example.com", "cfo@example.com"]
    # A long subject is folded right after its name.
    assert str(message["subject"]).strip() == "[TokVigil acme/prod] 80 % of ünser Budget 🚨"
    assert message["auto-submitted"] == "auto-generated"
    assert "https://tokvigil.example.com/admin/policies/alert/" in message.get_payload(decode=False)
    assert the_delivery().state == State.DELIVERED


def test_a_recipient_that_the_server_does_not_know_is_named(
    environment: Environment, mail_server: MailServer
) -> None:
    new_endpoint(environment, UNKNOWN, kind="email")
    new_alert(environment)

    assert delivering.deliver_due() == 0

    assert "no such user here" in the_delivery().last_error
    assert mail_server.received == []


def test_mail_that_a_busy_server_puts_off_is_tried_again_under_the_same_id(
    environment: Environment, mail_server: MailServer
) -> None:
    new_endpoint(environment, "ops@example.com", kind="email")
    new_alert(environment)
    mail_server.answers = ["451 try again later"]
    now = timezone.now()

    assert delivering.deliver_due(now) == 0
    assert "try again later" in the_delivery().last_error
    assert delivering.deliver_due(now + timedelta(minutes=1)) == 1

    ((_, message),) = mail_server.received
    assert str(the_delivery().alert.message_id) in message["message-id"]


def test_without_a_server_at_the_address_the_alert_waits(environment: Environment) -> None:
    new_endpoint(environment, "ops@example.com", kind="email")
    new_alert(environment)

    with _mailing_to(ports.pick_free()):
        assert delivering.deliver_due() == 0

    assert the_delivery().state == State.PENDING
    assert "refused" in the_delivery().last_error
