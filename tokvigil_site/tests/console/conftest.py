"""People of two tenants, signed in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tenants.models import Environment, Membership, Role, Tenant

SignIn = Callable[..., Client]


@pytest.fixture
def acme() -> Tenant:
    return Tenant.create_with_environments("acme", name="Acme", timezone="Europe/Berlin")


@pytest.fixture
def other() -> Tenant:
    return Tenant.create_with_environments("other", name="Other", timezone="America/New_York")


@pytest.fixture
def prod(acme: Tenant) -> Environment:
    return acme.environments.get(slug="prod")


@pytest.fixture
def dev(acme: Tenant) -> Environment:
    return acme.environments.get(slug="dev")


@pytest.fixture
def sign_in() -> SignIn:
    """A browser of a person with this role in these tenants; of a superuser, without any."""

    def signed_in(username: str, *tenants: Tenant, role: str = Role.ADMIN) -> Client:
        user = User.objects.create_user(username, is_staff=True, is_superuser=not tenants)
        for tenant in tenants:
            Membership.objects.create(tenant=tenant, user=user, role=role)
        client = Client()
        client.force_login(user)
        return client

    return signed_in


@pytest.fixture
def mia(acme: Tenant, sign_in: SignIn) -> Client:
    return sign_in("mia", acme)
