"""Writing rows of the price book by hand: the shared ones, and a tenant's own, which win over them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from django.db import transaction

from audit import log as audit_log
from tenants import revisions
from tenants.models import Environment
from usage.prices.models import ModelPrice
from usage.prices.tiers import RATE_FIELDS

_AUDITED = (
    "provider",
    "model",
    "aliases",
    "effective_from",
    *RATE_FIELDS,
    "other_rates",
    "service_tiers",
    "regions",
    "tiers",
    "source",
    "active",
)


def save(price: ModelPrice, *, actor: str, reason: str = "") -> bool:
    """Stores a row, new or changed; it binds the very next call in all environments that it is for.

    Whether anything is different now.
    """
    with audit_log.acting_as(actor), transaction.atomic():
        before = None if price._state.adding else _audited(ModelPrice.objects.get(pk=price.pk))
        now = _audited(price)
        if now == before:
            return False
        revisions.bump_all(price.tenant_id)
        price.save()
        why = {"reason": reason} if reason else {}
        if before is None:
            given = {name: value for name, value in now.items() if value not in (None, [], {})}
            audit_log.log("price.added", price, tenant_id=price.tenant_id, **given, **why)
        else:
            changes = audit_log.changes(before, now)
            audit_log.log("price.changed", price, tenant_id=price.tenant_id, changes=changes, **why)
    return True


def put(
    tenant_id: int,
    provider: str,
    model: str,
    *,
    effective_from: datetime,
    rates: Mapping[str, Decimal | None],
    other_rates: Mapping[str, str],
    service_tiers: Mapping[str, Mapping[str, str]],
    regions: Mapping[str, str],
    active: bool,
    reason: str,
    actor: str,
) -> ModelPrice:
    """Sets these rates of the tenant's own row with this start; its aliases and tiers stay. Raises ValidationError."""
    with transaction.atomic():
        lock(tenant_id)
        found = ModelPrice.objects.filter(
            tenant_id=tenant_id, provider=provider, model=model, effective_from=effective_from
        )
        price = found.first() or ModelPrice(
            tenant_id=tenant_id, provider=provider, model=model, effective_from=effective_from
        )
        for name in RATE_FIELDS:
            setattr(price, name, rates.get(name))
        price.other_rates, price.service_tiers, price.regions = other_rates, service_tiers, regions
        price.active = active
        price.full_clean()
        save(price, actor=actor, reason=reason)
    return price


def lock(tenant_id: int) -> None:
    """All environments of the tenant, in the order of `revisions.bump_all`, until the transaction ends."""
    list(Environment.objects.filter(tenant_id=tenant_id).order_by("id").select_for_update(no_key=True))


def _audited(price: ModelPrice) -> dict[str, object]:
    return {name: _plain(getattr(price, name)) for name in _AUDITED}


def _plain(value: object) -> object:
    """Rates without trailing zeros."""
    return Decimal(f"{value.normalize():f}") if isinstance(value, Decimal) else value
