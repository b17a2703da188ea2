"""Endpoints of alerts: added, changed, removed, tested; and their signing secrets, shown once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone

from audit import log as audit_log
from policies.alert_events import Event
from policies.alerting import delivering, messages, signing, targets
from policies.alerting.delivering import Outcome
from policies.alerting.targets import RefusedTarget, UnknownHost
from policies.models import Alert, AlertDelivery, AlertEndpoint, EndpointKind
from policies.models.alerts import ERROR_LENGTH_MAX
from tenants.models import Environment

ENDPOINTS_MAX = 50
RECIPIENTS_MAX = 20
# For so long after a rotation the old secret signs as well.
OLD_SECRET_SIGNS = timedelta(hours=24)


def clean(endpoint: AlertEndpoint) -> None:
    """Looks the host up. Raises ValidationError."""
    endpoint.address = endpoint.address.strip()
    if endpoint.kind == EndpointKind.EMAIL:
        _clean_recipients(endpoint.address)
        return
    try:
        targets.check(endpoint.address)
    except (RefusedTarget, UnknownHost) as error:
        raise ValidationError({"address": str(error)}) from error


def _clean_recipients(address: str) -> None:
    recipients = delivering.recipients(address)
    if not 1 <= len(recipients) <= RECIPIENTS_MAX:
        raise ValidationError(
            {"address": f"Give 1 to {RECIPIENTS_MAX} e-mail addresses, separated by commas."}
        )
    for each in recipients:
        try:
            validate_email(each)
        except ValidationError as error:
            raise ValidationError({"address": f"{each} is no e-mail address."}) from error


def hindrance(kind: str) -> str:
    """Why nothing can be sent to endpoints of this kind, whatever their address; empty if it can."""
    return delivering.NO_MAIL if kind == EndpointKind.EMAIL and not settings.EMAIL_IS_SET else ""


def place(endpoint: AlertEndpoint) -> str:
    """Where it goes, without what is secret of it: the URL of a Slack webhook is all that its receiver asks for."""
    if endpoint.kind == EndpointKind.EMAIL:
        return endpoint.address
    try:
        return targets.parse(endpoint.address).place
    except RefusedTarget:
        return "a URL that is not called any more"


@transaction.atomic
def add(endpoint: AlertEndpoint, *, actor: str) -> str:
    """The signing secret, which is shown this once; empty if it needs none. Raises ValidationError, IntegrityError."""
    with audit_log.acting_as(actor):
        environment = Environment.lock(endpoint.environment_id)
        if AlertEndpoint.objects.filter(environment=environment).count() >= ENDPOINTS_MAX:
            raise ValidationError(f"There are {ENDPOINTS_MAX} alert endpoints; remove one first.")
        endpoint.salt, endpoint.pepper_id = signing.new_salt()
        endpoint.save(force_insert=True)
        _log(
            "alert_endpoint.added",
            endpoint,
            place=place(endpoint),
            kind=str(endpoint.kind),
            events=endpoint.events,
        )
    return signing.text(endpoint) if endpoint.kind == EndpointKind.WEBHOOK else ""


@transaction.atomic
def change(endpoint: AlertEndpoint, before: Mapping[str, object], *, actor: str) -> None:
    """`before`: what `said` said of it. Raises IntegrityError."""
    with audit_log.acting_as(actor):
        endpoint.save(update_fields=["name", "kind", "address", "events", "active"])
        _log("alert_endpoint.changed", endpoint, changes=audit_log.changes(before, said(endpoint)))


@transaction.atomic
def remove(endpoint: AlertEndpoint, *, actor: str) -> None:
    """With what was to be delivered to it, and what was."""
    with audit_log.acting_as(actor):
        _log("alert_endpoint.removed", endpoint)
        endpoint.delete()


@transaction.atomic
def rotate(endpoint: AlertEndpoint, *, actor: str) -> str:
    """The new secret, which is shown this once. The old one signs as well for OLD_SECRET_SIGNS."""
    with audit_log.acting_as(actor):
        current = AlertEndpoint.objects.select_for_update(no_key=True, of=("self",)).get(pk=endpoint.pk)
        endpoint.previous_salt, endpoint.previous_pepper_id = current.salt, current.pepper_id
        endpoint.previous_ends_at = timezone.now() + OLD_SECRET_SIGNS
        endpoint.salt, endpoint.pepper_id = signing.new_salt()
        endpoint.save(
            update_fields=["salt", "pepper_id", "previous_salt", "previous_pepper_id", "previous_ends_at"]
        )
        _log("alert_endpoint.rotated", endpoint, old_signs_until=endpoint.previous_ends_at)
    return signing.text(endpoint)


def test(endpoint: AlertEndpoint, *, actor: str) -> Outcome:
    """Sends a test now, once, whether the endpoint is active or not. Not inside a transaction: it may take 10 s."""
    said_ = messages.test()
    now = timezone.now()
    with audit_log.acting_as(actor), transaction.atomic():
        alert = Alert.objects.create(
            environment=endpoint.environment,
            rule_name="",
            event=Event.TEST,
            about="",
            window_start=now,
            fired_at=now,
            ended_at=now,
            title=said_.title,
            text=said_.text,
            data=said_.data,
        )
        # Nobody else sends it meanwhile: it is given up until its outcome is known.
        delivery = AlertDelivery.objects.create(
            alert=alert, endpoint=endpoint, state=AlertDelivery.State.DEAD, attempts=1, tried_at=now
        )
        _log("alert_endpoint.tested", endpoint)
    outcome = delivering.attempt(alert, endpoint)
    AlertDelivery.objects.filter(pk=delivery.pk, attempts=1).update(
        state=AlertDelivery.State.DEAD if outcome.error else AlertDelivery.State.DELIVERED,
        response_status=outcome.status,
        last_error=outcome.error[:ERROR_LENGTH_MAX],
    )
    return outcome


@transaction.atomic
def redeliver(delivery: AlertDelivery, *, actor: str) -> bool:
    """From the beginning, at once. False: it is about to be sent anyway."""
    with audit_log.acting_as(actor):
        if not delivering.redeliver(delivery):
            return False
        alert = delivery.alert
        audit_log.log(
            "alert.redelivered",
            alert,
            tenant_id=alert.environment.tenant_id,
            environment=alert.environment.slug,
            place=delivery.endpoint.name,
        )
    return True


def said(endpoint: AlertEndpoint) -> dict[str, object]:
    """For the log."""
    return {
        "name": endpoint.name,
        "kind": str(endpoint.kind),
        "goes to": place(endpoint),
        "address": signing.mark(endpoint.address),
        "events": list(endpoint.events),
        "active": endpoint.active,
    }


def _log(action: str, endpoint: AlertEndpoint, /, **data: object) -> None:
    environment = endpoint.environment
    audit_log.log(action, endpoint, tenant_id=environment.tenant_id, environment=environment.slug, **data)
