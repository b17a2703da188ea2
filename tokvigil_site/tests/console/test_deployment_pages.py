"""Deployments in the console: the names that an environment has for models."""

from __future__ import annotations

import pytest
from django.urls import reverse

from policies.changing import publishing
from policies.models import Deployment
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import set_price
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import submit

pytestmark = pytest.mark.django_db

LIST = reverse("admin:policies_deployment_changelist")
ADD = reverse("admin:policies_deployment_add")


def page(row: Deployment) -> str:
    return reverse("admin:policies_deployment_change", args=[row.pk])


def test_an_editor_names_a_model_and_sees_what_it_is_priced_as(
    sign_in: SignIn, acme: Tenant, prod: Environment
) -> None:
    set_price("gpt-4o")
    client = sign_in("mia", acme, role=Role.EDITOR)

    submit(client, ADD, name="team-chat", model="gpt-4o-2024-08-06")
    submit(client, ADD, name="router", model="nothing-known")

    text = client.get(LIST).content.decode()
    assert "gpt-4o of openai" in text
    assert "no price: give the model one" in text
    assert "router" in text


def test_a_name_stays_and_its_model_is_changed(sign_in: SignIn, acme: Tenant, prod: Environment) -> None:
    row = publishing.put_deployment(prod, "team-chat", "gpt-4o", actor="test")
    client = sign_in("mia", acme, role=Role.EDITOR)

    submit(client, page(row), model="gpt-5")

    row.refresh_from_db()
    assert (row.name, row.model) == ("team-chat", "gpt-5")


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"name": "Team-Chat", "model": "gpt-5"}, "name", "team-chat is there already; change that one."),
        ({"name": "a\tb", "model": "gpt-5"}, "name", "The name holds a control character"),
        ({"name": "other", "model": ""}, "model", "required"),
    ],
)
def test_what_is_wrong_is_said_beside_the_field_and_kept(
    sign_in: SignIn, acme: Tenant, prod: Environment, given: dict[str, str], field: str, message: str
) -> None:
    publishing.put_deployment(prod, "team-chat", "gpt-4o", actor="test")
    client = sign_in("mia", acme, role=Role.EDITOR)

    response = client.post(ADD, {"environment": prod.pk, **given})

    form = response.context["adminform"].form
    assert message in str(form.errors[field])
    assert form["name"].value() == given["name"]
    assert list(prod.deployments.values_list("name", "model")) == [("team-chat", "gpt-4o")]


def test_a_viewer_sees_them_and_changes_none(sign_in: SignIn, acme: Tenant, prod: Environment) -> None:
    row = publishing.put_deployment(prod, "team-chat", "gpt-4o", actor="test")
    client = sign_in("ben", acme, role=Role.VIEWER)

    assert "team-chat" in client.get(LIST).content.decode()
    assert client.get(ADD).status_code == 403
    assert client.post(page(row), {"model": "gpt-5"}).status_code == 403
    row.refresh_from_db()
    assert row.model == "gpt-4o"
