"""How often a key may call: any number of calls a minute from 1 on, or as often as it likes. Never "0"."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse

from audit import roles
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import EVALUATE

pytestmark = pytest.mark.django_db


@pytest.fixture
def prod() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="prod")


@pytest.mark.parametrize("rate", [0, -1])
def test_a_key_that_could_call_nothing_is_not_issued(prod: Environment, rate: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ApiKey.issue(prod, "none", (EVALUATE,), requests_per_minute=rate)
    with pytest.raises(CommandError, match="greater than or equal to 1"):
        call_command("issue_key", "acme/prod", name="none", requests_per_minute=rate)
    assert not ApiKey.objects.exists()


def test_nor_is_one_changed_so(prod: Environment) -> None:
    key, _ = ApiKey.issue(prod, "app", (EVALUATE,), requests_per_minute=1)
    with pytest.raises(IntegrityError, match="api_key_rate_not_zero"):
        ApiKey.objects.filter(pk=key.pk).update(requests_per_minute=0)


def test_the_admin_says_so(prod: Environment) -> None:
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    form = {"name": "none", "environment": prod.pk, "scopes": ["evaluate"], "requests_per_minute": "0"}
    answer = client.post(reverse("admin:tenants_apikey_add"), form)
    assert "greater than or equal to 1" in answer.content.decode()
    assert not ApiKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_was_stored_as_0_goes_on_meaning_any_number() -> None:
    with roles.as_owner(), transaction.atomic():
        _migrate_a_key_that_has_0()
        # The constraint stays.
        transaction.set_rollback(True)


def _migrate_a_key_that_has_0() -> None:
    prod = Tenant.create_with_environments("acme").environments.get(slug="prod")
    key, _ = ApiKey.issue(prod, "app", (EVALUATE,), requests_per_minute=7)
    untouched, _ = ApiKey.issue(prod, "other", (EVALUATE,), requests_per_minute=8)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE tenants_apikey DROP CONSTRAINT api_key_rate_not_zero")
    ApiKey.objects.filter(pk=key.pk).update(requests_per_minute=0)
    migration = import_module("tenants.migrations.0003_key_rate_from_1")
    migration.let_0_mean_any_number(apps, connection.schema_editor())
    assert ApiKey.objects.get(pk=key.pk).requests_per_minute is None
    assert ApiKey.objects.get(pk=untouched.pk).requests_per_minute == 8
