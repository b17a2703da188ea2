"""How the admin writes values, alike in all apps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from audit import wording
from tenants.models import Environment


def plain(amount: Decimal | None) -> Decimal | None:
    """Without trailing zeros."""
    return None if amount is None else Decimal(f"{amount.normalize():f}")


def moment(at: datetime) -> SafeString:
    """To the second, in the zone of the page, on one line, so that a column of them lines up; ISO on hover."""
    here = localtime(at)
    return format_html(
        '<time class="tv-one-line" datetime="{0}" title="{0}">{1}</time>',
        here.isoformat(timespec="seconds"),
        f"{here:%Y-%m-%d %H:%M:%S}",
    )


def moment_of(field: str, title: str) -> Callable[[Any, Model], SafeString | str]:
    """A method of an admin class, for lists and for fields that are only shown."""

    @admin.display(description=title, ordering=field)
    def shown(page: Any, row: Model) -> SafeString | str:
        at: datetime | None = getattr(row, field)
        return "" if at is None else moment(at)

    return shown


def who_of(field: str, title: str) -> Callable[[Any, Model], str]:
    """The same of an actor such as `admin:mia`."""

    @admin.display(description=title, ordering=field)
    def shown(page: Any, row: Model) -> str:
        actor: str = getattr(row, field)
        return wording.who(actor)

    return shown


def amount(text: str, in_full: str = "") -> SafeString:
    """A number in a column of a list: at the right, its digits below each other. `in_full`: on hover."""
    return format_html('<span class="tv-number tv-amount" title="{}">{}</span>', in_full or text, text)


def time_of_day(at: datetime) -> SafeString:
    """The same without the day, for rows below a heading that says it."""
    here = localtime(at)
    return format_html(
        '<time class="tv-one-line" datetime="{0}" title="{0}">{1}</time>',
        here.isoformat(timespec="seconds"),
        f"{here:%H:%M:%S}",
    )


def link(row: Model, text: str) -> SafeString:
    """A link to the row's page. It is shown without a permission check; that page makes it."""
    return link_to(row._meta.label_lower, row.pk, text)


def link_to(model: str, row_id: object, text: str) -> SafeString:
    """To the page of the row of a model such as `policies.policy`."""
    url = reverse(f"admin:{model.replace('.', '_')}_change", args=[row_id])
    return format_html('<a href="{}">{}</a>', url, text)


def block_of_lines(text: str) -> SafeString:
    return format_html("<pre>{}</pre>", text)


def user_url(environment: Environment, user_id: str, period: Mapping[str, Any] | None = None) -> str:
    """Of the page of an end user, whether anything is stored of them or not. `period`: parameters that say which."""
    query = {"environment": str(environment), "user_id": user_id, **(period or {})}
    return f"{reverse('admin:end_user')}?{urlencode(query, doseq=True)}"


def user_link(environment: Environment, user_id: str) -> SafeString:
    return format_html('<a href="{}"><bdi>{}</bdi></a>', user_url(environment, user_id), user_id)
