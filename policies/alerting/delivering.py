"""Sending alerts: claimed by one worker at a time, tried again with growing pauses, given up in the end.

A worker takes one delivery that is due and that no other has locked, counts the attempt and puts the next one LEASE
ahead, all in one transaction; it sends outside of it. Should it die, the delivery is due again after the lease: an
endpoint may thus get an alert twice, under the same id, and never not at all.
"""

from __future__ import annotations

import logging
import random
import smtplib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.utils import timezone

from policies.alerting import firing, messages, sending, signing
from policies.alerting.sending import NotSent
from policies.alerting.signing import PepperGone
from policies.models import Alert, AlertDelivery, AlertEndpoint, EndpointKind
from policies.models.alerts import ERROR_LENGTH_MAX

logger = logging.getLogger("tokvigil.alerts")

State = AlertDelivery.State
ATTEMPTS_MAX = 9
FIRST_PAUSE = timedelta(seconds=10)
PAUSE_FACTOR = 4
PAUSE_MAX = timedelta(hours=6)
# A pause is up to so much shorter or longer, so that what failed together is not tried together.
JITTER = 0.2
LEASE = timedelta(minutes=2)
# Of one run; the next one goes on.
RUN_S_MAX = 25.0
NO_MAIL = "EMAIL_URL is not set, so that no e-mail can be sent."
# The receiver wants no more.
GONE = 410


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is empty if it arrived. `is_final`: it is not tried again."""

    error: str = ""
    status: int | None = None
    retry_after_s: int | None = None
    is_final: bool = False


def deliver_due(now: datetime | None = None) -> int:
    """Sends what is due, the longest due first, for RUN_S_MAX; how many arrived. Raises DatabaseError.

    An endpoint that fails is left alone for the rest of the run, so that a dead one does not hold up the others.
    """
    ends_at = time.monotonic() + RUN_S_MAX
    failed: set[int] = set()
    arrived = 0
    while time.monotonic() < ends_at:
        delivery = _claimed(now or timezone.now(), failed)
        if delivery is None:
            break
        outcome = attempt(delivery.alert, delivery.endpoint, now)
        _settle(delivery, outcome, now or timezone.now())
        if outcome.error:
            failed.add(delivery.endpoint_id)
        else:
            arrived += 1
    return arrived


def attempt(alert: Alert, endpoint: AlertEndpoint, now: datetime | None = None) -> Outcome:
    """One attempt, now. Whatever goes wrong is said by the outcome."""
    try:
        if endpoint.kind == EndpointKind.EMAIL:
            return _mail(alert, endpoint)
        return _post(alert, endpoint, now or timezone.now())
    except NotSent as error:
        return Outcome(str(error), is_final=error.is_final)
    except PepperGone as error:
        return Outcome(str(error), is_final=True)
    except Exception as error:
        logger.exception("alert %s to endpoint %s", alert.pk, endpoint.pk)
        return Outcome(f"It could not be sent: {type(error).__name__}.")


def pause(attempts: int, asked_s: int | None = None, jitter: float = 0.0) -> timedelta:
    """After so many attempts: 10 s, 40 s, 160 s, … up to PAUSE_MAX. `jitter` from -1 to 1. Not less than asked."""
    grown: timedelta = FIRST_PAUSE * PAUSE_FACTOR ** min(attempts - 1, ATTEMPTS_MAX)
    wanted = min(grown, PAUSE_MAX) * (1 + JITTER * jitter)
    return max(wanted, min(timedelta(seconds=asked_s or 0), PAUSE_MAX))


def redeliver(delivery: AlertDelivery) -> bool:
    """From the beginning, now. False: it waits for its next attempt already. In the caller's transaction."""
    ended = AlertDelivery.objects.filter(pk=delivery.pk).exclude(state=State.PENDING, attempts=0)
    return bool(ended.update(state=State.PENDING, attempts=0, next_attempt_at=timezone.now()))


@transaction.atomic
def _claimed(now: datetime, failed: Iterable[int]) -> AlertDelivery | None:
    delivery = (
        AlertDelivery.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("alert__environment__tenant", "endpoint")
        .filter(state=State.PENDING, next_attempt_at__lte=now, endpoint__active=True)
        .exclude(endpoint__in=list(failed))
        .order_by("next_attempt_at", "id")
        .first()
    )
    if delivery is not None:
        delivery.attempts += 1
        delivery.next_attempt_at = now + LEASE
        delivery.save(update_fields=["attempts", "next_attempt_at"])
    return delivery


def _settle(delivery: AlertDelivery, outcome: Outcome, now: datetime) -> None:
    """Unless somebody else has taken it over meanwhile."""
    if not outcome.error:
        state = State.DELIVERED
    elif outcome.is_final or delivery.attempts >= ATTEMPTS_MAX:
        state = State.DEAD
    else:
        state = State.PENDING
    jitter = random.uniform(-1, 1)  # noqa: S311 (no secret)
    AlertDelivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts, state=State.PENDING).update(
        state=state,
        tried_at=now,
        next_attempt_at=now + pause(delivery.attempts, outcome.retry_after_s, jitter),
        response_status=outcome.status,
        last_error=outcome.error[:ERROR_LENGTH_MAX],
    )


def _post(alert: Alert, endpoint: AlertEndpoint, now: datetime) -> Outcome:
    where = str(alert.environment)
    if endpoint.kind == EndpointKind.SLACK:
        body, headers = messages.slack_body(alert.title, alert.text, where, firing.page_url(alert)), {}
    else:
        body = body_of(alert)
        headers = signing.headers(signing.secrets_of(endpoint, now), alert.message_id, now, body)
    answer = sending.post(endpoint.address, body, headers)
    if answer.is_success:
        return Outcome(status=answer.status)
    return Outcome(
        _refused(answer),
        status=answer.status,
        retry_after_s=answer.retry_after_s,
        is_final=answer.status == GONE,
    )


def body_of(alert: Alert) -> bytes:
    """What webhooks are sent; the same in each attempt. Reads the environment and its tenant."""
    return messages.webhook_body(alert.event, alert.fired_at, _data(alert))


def _refused(answer: sending.Answer) -> str:
    if 300 <= answer.status < 400:
        return f"Answered {answer.status}: redirects are not followed. Give the URL that it leads to."
    return f"Answered {answer.status}{f': {answer.excerpt}' if answer.excerpt else '.'}"


def _data(alert: Alert) -> dict[str, object]:
    return {
        "id": str(alert.pk),
        "environment": str(alert.environment),
        "rule": alert.rule_name,
        "title": alert.title,
        "text": alert.text,
        "url": firing.page_url(alert) or None,
        **alert.data,
    }


def _mail(alert: Alert, endpoint: AlertEndpoint) -> Outcome:
    if not settings.EMAIL_IS_SET:
        return Outcome(NO_MAIL)
    where, url = str(alert.environment), firing.page_url(alert)
    mail = EmailMessage(
        subject=f"[TokVigil {where}] {alert.title}",
        body="\n\n".join(filter(None, (alert.title, alert.text, f"Environment {where}", url))),
        to=recipients(endpoint.address),
        headers={
            "Message-ID": f"<{alert.message_id}.{endpoint.pk}@tokvigil>",
            "Auto-Submitted": "auto-generated",
        },
    )
    try:
        mail.send()
    except (smtplib.SMTPException, OSError) as error:
        return Outcome(f"The mail server did not take it: {_why(error)}")
    return Outcome()


def _why(error: Exception) -> str:
    """Without the number of the operating system."""
    if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException):
        return error.strerror or str(error)
    return str(error)


def recipients(address: str) -> list[str]:
    return [each.strip() for each in address.split(",") if each.strip()]
