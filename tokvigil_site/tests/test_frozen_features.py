"""Every feature that an application may name can be frozen in an emergency, and stays frozen."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from tenants import freezing
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import FROZEN_FEATURES_MAX, Environment
from tokvigil_site.testing import Api


@pytest.fixture
def staff(environment: Environment) -> Client:
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    return client


def address(environment: Environment) -> str:
    return reverse("admin:tenants_environment_change", args=[environment.pk])


def switch(environment: Environment) -> str:
    return f"{reverse('admin:freeze')}?environment={environment}"


def opened(client: Client, url: str) -> dict[str, str]:
    """What the page's hidden fields hold."""
    page = client.get(url).content.decode()
    found = re.findall(r'<input type="hidden" name="([^"]+)"(?: value="([^"]*)")?', page)
    return {name: value for name, value in found if name != "csrfmiddlewaretoken"}


@pytest.mark.parametrize("length", [100, 101, NAME_LENGTH_MAX])
def test_a_feature_with_a_long_name_can_be_frozen(api: Api, environment: Environment, length: int) -> None:
    feature = "f" * length
    assert api.evaluate(feature=feature)["allowed"]
    freezing.freeze(environment, features=[feature], actor="test")
    assert api.evaluate(feature=feature)["reason_code"] == "FEATURE_FROZEN"


@pytest.mark.parametrize(
    "feature", ["chat,beta", ' "chat" ', "a\u2028b", "a\tb", "日本語", "x" * NAME_LENGTH_MAX]
)
def test_it_can_be_frozen_in_the_admin(
    api: Api, environment: Environment, staff: Client, feature: str
) -> None:
    for each in ("other", feature):
        form = {"do": "freeze", "whole": "feature", "feature": each, "reason": "x", "anyway": "on"}
        assert staff.post(switch(environment), form).status_code == 302
    assert api.evaluate(feature=feature)["reason_code"] == "FEATURE_FROZEN"
    environment.refresh_from_db()
    assert environment.frozen_features == sorted(["other", feature])


def test_as_many_as_the_audit_log_can_hold(environment: Environment) -> None:
    features = [
        f"{number:03d}" + '"' + "\x01" * (NAME_LENGTH_MAX - 4) for number in range(FROZEN_FEATURES_MAX)
    ]
    freezing.freeze(environment, features=features, actor="test")
    others = [f"x{feature}"[:NAME_LENGTH_MAX] for feature in features]
    freezing.set_frozen(environment, features=others, actor="test")
    frozen, replaced = Entry.objects.filter(action="environment.frozen").order_by("seq")
    assert frozen.data["changes"]["frozen_features"]["before"] == []
    assert len(frozen.data["changes"]["frozen_features"]["after"]) == FROZEN_FEATURES_MAX
    assert [len(names) for names in replaced.data["changes"]["frozen_features"].values()] == [
        FROZEN_FEATURES_MAX,
        FROZEN_FEATURES_MAX,
    ]


def test_an_environment_that_froze_more_before_can_be_thawed(environment: Environment) -> None:
    features = [str(number) for number in range(FROZEN_FEATURES_MAX + 2)]
    Environment.objects.filter(pk=environment.pk).update(frozen_features=features)
    assert (
        len(freezing.unfreeze(environment, features=["0"], actor="test").frozen_features) == len(features) - 1
    )


def test_a_stale_form_leaves_the_brake(api: Api, environment: Environment, staff: Client) -> None:
    form = opened(staff, address(environment))
    freezing.freeze(environment, actor="colleague")
    freezing.freeze(environment, features=["chat"], actor="colleague")

    answer = staff.post(address(environment), form | {"default_action": "block", "frozen_features": ""})

    assert answer.status_code == 302
    environment.refresh_from_db()
    assert (environment.frozen, environment.frozen_features) == (True, ["chat"])
    assert environment.default_action == "block"
    assert not api.evaluate()["allowed"]


def test_a_stale_form_does_not_pull_it_again(environment: Environment, staff: Client) -> None:
    freezing.freeze(environment, features=["chat"], actor="test")
    freezing.freeze(environment, actor="test")
    form = opened(staff, address(environment))
    freezing.unfreeze(environment, actor="colleague")

    staff.post(
        address(environment), form | {"default_action": "block", "frozen": "on", "frozen_features": "chat"}
    )

    environment.refresh_from_db()
    assert (environment.frozen, environment.default_action) == (False, "block")


def test_the_same_change_by_two_is_one(environment: Environment, staff: Client) -> None:
    freezing.freeze(environment, reason="first", actor="colleague")
    form = {"do": "freeze", "whole": "environment", "feature": "", "all_calls": "on", "reason": "second"}
    assert staff.post(switch(environment), form).status_code == 302
    environment.refresh_from_db()
    assert [each.reason for each in freezing.in_force(environment)] == ["first"]


@pytest.fixture(autouse=True)
def _plain_static(settings) -> None:  # type: ignore[no-untyped-def]
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
