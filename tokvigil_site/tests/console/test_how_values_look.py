"""People are named in words and times are written alike, on every page; what is clicked has a name."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.core.exceptions import FieldDoesNotExist
from django.db.models import DateField, Model
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import formats, timezone

from policies import boosts
from policies.changing import drafts
from policies.changing.publishing import publish
from policies.models import Boost
from policies.policy_rows import policy_set
from tenants import freezing
from tenants.models import Environment, Tenant
from tokvigil_site.testing import apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db(transaction=True)

PER_USER = "{metric: requests, window: day, amount: 5, per: user}"
OTTO = "admin:otto"


def text_of(page: str) -> str:
    """What a person sees."""
    return unescape(re.sub(r"<[^>]*>", " ", page))


@pytest.fixture
def by_otto(prod: Environment) -> dict[str, str]:
    """Pages of what otto did in the console, and a command."""
    apply_policies(prod, limits(PER_USER))
    publish(prod, policy_set(prod), actor=OTTO)
    policy = prod.policies.get()
    policy.versions.update(actor=OTTO)
    boost = Boost(
        environment=prod, per="user", subject="ana", metric="requests", window="day", extra=Decimal(5),
        reason="why not", ends_at=timezone.now() + timedelta(days=1),
    )  # fmt: skip
    boosts.give(boost, actor=OTTO)
    freezing.freeze(prod, features=["chat"], reason="costs", actor=OTTO)
    draft = drafts.begin(prod, "later", actor="cli:nightly")
    return {
        "policies": reverse("admin:policies_policy_changelist"),
        "policy": reverse("admin:policies_policy_change", args=[policy.pk]),
        "versions": reverse("admin:policy_versions", args=[policy.pk]),
        "boosts": reverse("admin:policies_boost_changelist"),
        "boost": reverse("admin:policies_boost_change", args=[boost.pk]),
        "freezes": reverse("admin:freeze"),
        "user": f"{reverse('admin:end_user')}?user_id=ana",
        "drafts": reverse("admin:policy_drafts"),
        "draft": reverse("admin:policy_draft", args=[draft.pk]),
        "audit log": reverse("admin:audit_entry_changelist"),
        "overview": reverse("admin:index"),
    }


def test_people_are_named_in_words(mia: Client, by_otto: dict[str, str]) -> None:
    shown = {name: text_of(mia.get(url, follow=True).content.decode()) for name, url in by_otto.items()}

    assert {name: OTTO in text or "cli:" in text for name, text in shown.items()} == dict.fromkeys(
        shown, False
    )
    for name in ("policy", "versions", "boosts", "boost", "freezes", "user"):
        assert "otto" in shown[name], name
    assert "the command nightly" in shown["drafts"]
    assert "the command nightly" in shown["draft"]


def is_time(model: type[Model], name: Any) -> bool:
    try:
        return isinstance(name, str) and isinstance(model._meta.get_field(name), DateField)
    except FieldDoesNotExist:
        return False


def test_no_list_and_no_field_shows_a_time_as_django_does(rf: RequestFactory) -> None:
    """`display.moment_of` writes them with their ISO form on hover."""
    raw = [
        f"{model._meta.label}.{name}"
        for model, page in admin.site._registry.items()
        for name in (*page.list_display, *page.readonly_fields)
        if is_time(model, name)
    ]
    assert raw == []


def test_what_django_writes_itself_looks_the_same() -> None:
    assert formats.localize(datetime(2026, 11, 27, 20, 35, 5, tzinfo=UTC)) == "2026-11-27 20:35:05"


def test_the_list_of_tenants_says_when_in_the_zone_of_the_page(mia: Client, acme: Tenant) -> None:
    Tenant.objects.filter(pk=acme.pk).update(created_at=datetime(2026, 11, 27, 20, 35, 5, tzinfo=UTC))
    page = mia.get(reverse("admin:tenants_tenant_changelist")).content.decode()
    assert 'datetime="2026-11-27T21:35:05+01:00"' in page
    assert ">2026-11-27 21:35:05<" in page


def test_what_chooses_a_row_or_makes_one_has_its_name(
    mia: Client, sign_in: SignIn, prod: Environment
) -> None:
    plan = prod.plans.create(name="gold <b>")
    page = mia.get(reverse("admin:policies_plan_changelist")).content.decode()
    assert 'aria-label="Select gold &lt;b&gt;"' in page
    form = mia.get(reverse("admin:policies_plan_change", args=[plan.pk])).content.decode()
    assert 'aria-label="New plan"' in form
    user = mia.get(reverse("admin:policies_enduser_add")).content.decode()
    assert re.search(r'<a [^>]*id="add_id_plan"[^>]*aria-label="New plan"', user)
