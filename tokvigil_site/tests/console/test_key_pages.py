"""The pages of API keys: made, shown once, waited for, rotated and revoked."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tenants import keys, refusals
from tenants.models import ApiKey, Environment, Role, Tenant
from tenants.refusals import Refusal
from tenants.scopes import EVALUATE, PRESETS, USAGE_READ
from tokvigil_site.testing import Api
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

ADD = reverse("admin:tenants_apikey_add")


def address(what: str, key: ApiKey) -> str:
    return reverse(f"admin:tenants_apikey_{what}", args=[key.pk])


def text_in(answer: Any) -> str:
    found = re.search(r'id="secret">(tv_\w+)<', answer.content.decode())
    assert found is not None, answer.content.decode()[-3000:]
    return found[1]


@pytest.fixture
def key(prod: Environment, empty_store: None) -> ApiKey:
    return ApiKey.issue(prod, "app", PRESETS["server"])[0]


def make(client: Client, environment: Environment, **fields: Any) -> Any:
    form = {"environment": environment.pk, "name": "new", "allowed_networks": "", **fields}
    return client.post(ADD, form)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_key_is_made_by_what_it_is_for(mia: Client, prod: Environment, preset: str) -> None:
    answer = make(mia, prod, preset=preset)
    key = ApiKey.objects.get()
    assert tuple(key.scopes) == PRESETS[preset]
    presented = keys.parse(text_in(answer))
    assert presented is not None
    assert presented.key_id == key.key_id


def test_a_key_may_be_made_for_chosen_scopes_alone(mia: Client, prod: Environment) -> None:
    make(mia, prod, preset="chosen", scopes=[USAGE_READ])
    assert ApiKey.objects.get().scopes == [USAGE_READ]
    refused = make(mia, prod, preset="chosen", scopes=[])
    assert "Tick at least one." in refused.content.decode()
    assert ApiKey.objects.count() == 1


def test_a_right_that_is_ticked_beside_a_preset_is_asked_about_and_kept(
    mia: Client, prod: Environment
) -> None:
    asked = make(mia, prod, name="web", preset="server", scopes=[USAGE_READ, EVALUATE])
    form = asked.context["adminform"].form
    assert list(form.errors) == ["scopes"]
    assert "“Server” is chosen above" in asked.content.decode()
    assert (form["preset"].value(), form["scopes"].value()) == ("server", [USAGE_READ, EVALUATE])
    assert ApiKey.objects.count() == 0
    make(mia, prod, preset="server", scopes=[*reversed(PRESETS["server"])])
    assert tuple(ApiKey.objects.get().scopes) == PRESETS["server"], "these are the preset's"


def test_the_form_begins_with_a_preset_and_nothing_ticked(mia: Client) -> None:
    form = mia.get(ADD).context["adminform"].form
    assert (form["preset"].value(), form["scopes"].value()) == ("server", None)


def test_its_text_is_on_that_answer_alone_ready_to_use(mia: Client, prod: Environment) -> None:
    answer = make(mia, prod, preset="server")
    page, text = answer.content.decode(), text_in(answer)
    assert "no-store" in answer["Cache-Control"]
    assert f"TOKVIGIL_API_KEY={text}" in page
    assert "http://testserver/v1/evaluate" in page
    assert "Waiting for the first call" in page
    key = ApiKey.objects.get()
    for url in (address("change", key), address("waiting", key), reverse("admin:tenants_apikey_changelist")):
        assert keys.parse(text).secret not in mia.get(url).content.decode()  # type: ignore[union-attr]
    assert not mia.session.get("_messages")


def test_what_is_wrong_is_said_and_what_was_typed_is_kept(mia: Client, prod: Environment) -> None:
    page = make(mia, prod, name="<b>my key", allowed_networks="10.0.0.0/33", preset="viewer").content.decode()
    assert "&lt;b&gt;my key" in page
    assert "is no address or network" in page
    assert re.search(r'value="viewer"[^>]*checked', page)
    assert not ApiKey.objects.exists()


def waiting(client: Client, key: ApiKey) -> str:
    return client.get(address("waiting", key)).content.decode()


def test_waiting_has_three_endings(mia: Client, key: ApiKey) -> None:
    assert "Waiting for the first call" in waiting(mia, key)
    refusals._write(key.environment_id, key.pk, f"{Refusal.SECRET} {timezone.now().isoformat()}")
    assert "the secret does not match" in waiting(mia, key)
    assert "every 2s" in waiting(mia, key)
    ApiKey.objects.update(last_used_at=timezone.now() + timedelta(seconds=5))
    assert "The first call came" in waiting(mia, key)
    assert "every 2s" not in waiting(mia, key)


def test_waiting_ends_after_a_while(mia: Client, key: ApiKey) -> None:
    ApiKey.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    shown = waiting(mia, key)
    assert "No call after 10 minutes" in shown
    assert "every 2s" not in shown
    refusals._write(key.environment_id, key.pk, f"{Refusal.SECRET} {timezone.now().isoformat()}")
    shown = waiting(mia, key)
    assert "the secret does not match" in shown
    assert "every 2s" not in shown


def test_the_page_of_a_key_that_was_never_used_waits_for_its_first_call_anew(
    mia: Client, key: ApiKey
) -> None:
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=9))
    page = mia.get(address("change", key)).content.decode()
    assert "Waiting for the first call" in page
    found = re.search(r'hx-get="([^"]+)"', page)
    assert found is not None
    assert found[1].startswith(address("waiting", key))
    again = mia.get(found[1]).content.decode()
    assert found[1] in again
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        assert "No call after 10 minutes" in mia.get(found[1]).content.decode()
    ApiKey.objects.update(last_used_at=timezone.now())
    assert "The first call came" in mia.get(found[1]).content.decode()
    for over in ({}, {"last_used_at": None, "revoked_at": timezone.now()}):
        ApiKey.objects.update(**over) if over else None
        assert "first call" not in mia.get(address("change", key)).content.decode()


def test_waiting_since_the_future_ends_too(mia: Client, key: ApiKey) -> None:
    page = mia.get(f"{address('waiting', key)}?since={'9' * 10}").content.decode()
    found = re.search(r'hx-get="([^"]+)"', page)
    assert found is not None
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        assert "every 2s" not in mia.get(found[1]).content.decode()


def test_a_key_that_was_made_long_ago_is_waited_for_once_it_is_rotated(mia: Client, key: ApiKey) -> None:
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=9))
    page = mia.post(address("rotate", key), {"when": "now"}).content.decode()
    assert "Waiting for the first call" in page
    found = re.search(r'hx-get="([^"]+)"', page)
    assert found is not None
    assert "Waiting for the first call" in mia.get(found[1]).content.decode()
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        shown = mia.get(found[1]).content.decode()
    assert "No call after 10 minutes" in shown
    assert f'href="{address("change", key)}">Open the key' in shown


@pytest.mark.parametrize("since", ["", "x", "-1", "9" * 10, "9" * 40, "%00", "1.5"])
def test_any_since_is_answered(mia: Client, key: ApiKey, since: str) -> None:
    assert mia.get(f"{address('waiting', key)}?since={since}").status_code == 200


@pytest.mark.parametrize(
    ("fields", "path", "why"),
    [
        ({}, "/v1/me", Refusal.SECRET),
        ({"allowed_networks": ["10.1.2.3"]}, "/v1/me", Refusal.ADDRESS),
        ({"expires_at": timezone.now() - timedelta(days=1)}, "/v1/me", Refusal.EXPIRED),
        ({"preset": "viewer"}, "/v1/evaluate", Refusal.SCOPE),
    ],
)
def test_a_refused_call_is_told_to_who_looks_after_the_key(
    environment: Environment, fields: dict[str, Any], path: str, why: Refusal
) -> None:
    api = Api(environment, **fields)
    if why == Refusal.SECRET:
        api.text = api.text[:-1] + ("x" if api.text[-1] != "x" else "y")
    body = {"user_id": "ann", "model": "m", "input_tokens": 1, "max_output_tokens": 0}
    status = (api.post(path, body) if path == "/v1/evaluate" else api.get(path)).status
    assert status == (403 if why == Refusal.SCOPE else 401)
    refusals._writer.submit(int).result()
    found = refusals.last(environment.pk, api.key.pk)
    assert found is not None
    assert found.why == why


@pytest.mark.parametrize(("when", "hours"), [("now", None), ("hour", 1), ("day", 24), ("week", 168)])
def test_rotating_asks_when_the_old_secret_ends(
    mia: Client, key: ApiKey, when: str, hours: int | None
) -> None:
    before = bytes(key.secret_hmac)
    assert "When does the old secret stop working?" in mia.get(address("rotate", key)).content.decode()
    assert mia.post(address("rotate", key), {"when": "never"}).status_code == 200
    answer = mia.post(address("rotate", key), {"when": when})
    presented = keys.parse(text_in(answer))
    said = "The old secret does not work any more." if hours is None else "The old secret works until <time"
    assert said in answer.content.decode()
    key.refresh_from_db()
    assert presented is not None
    assert keys.proves(presented.secret, key.pepper_id, bytes(key.secret_hmac))
    assert bytes(key.secret_hmac) != before
    if hours is None:
        assert key.previous_ends_at is None
    else:
        assert key.previous_ends_at is not None
        left = key.previous_ends_at - timezone.now()
        assert timedelta(hours=hours, minutes=-1) < left <= timedelta(hours=hours)
        assert "works until" in mia.get(address("change", key)).content.decode()


def test_two_secrets_of_a_key_are_told_apart_by_how_they_end(mia: Client, prod: Environment) -> None:
    old = text_in(make(mia, prod, preset="server"))
    key = ApiKey.objects.get()
    assert f"…{old[-4:]}</code>" in mia.get(address("rotate", key)).content.decode()
    new = text_in(mia.post(address("rotate", key), {"when": "day"}))
    for what in ("change", "end_old_secret"):
        page = mia.get(address(what, key)).content.decode()
        assert re.search(rf"…{new[-4:]}</code>", page), what
        assert re.search(rf"…{old[-4:]}</code>", page), what
        assert not [text for text in (old, new) if text[-5:] in page]
    ApiKey.objects.update(secret_end="", previous_end="")
    page = mia.get(address("change", key)).content.decode()
    assert page.count("how it ends is not known") == 2
    mia.post(address("rotate", key), {"when": "now"})
    assert ApiKey.objects.get().previous_end == ""


def test_when_the_old_secret_was_last_used_is_said_if_it_is_known(mia: Client, prod: Environment) -> None:
    make(mia, prod, preset="server")
    key = ApiKey.objects.get()
    mia.post(address("rotate", key), {"when": "day"})
    for known, said in (
        ({}, "not used since the rotation"),
        ({"previous_used_at": timezone.now()}, "last used <time"),
        ({"previous_used_at": None, "secret_end": ""}, "when it was last used is not known"),
    ):
        ApiKey.objects.update(**known) if known else None
        assert f", {said}" in mia.get(address("change", key)).content.decode()
        assert f"The old secret: {said}" in mia.get(address("end_old_secret", key)).content.decode()


def test_a_key_is_revoked_from_its_page_after_a_question(mia: Client, key: ApiKey) -> None:
    asked = mia.get(address("revoke", key)).content.decode()
    assert "refused from the next one on, for good" in asked
    assert f'href="{address("change", key)}" class="tv-button">Keep' in asked
    assert mia.post(address("revoke", key)).status_code == 302
    key.refresh_from_db()
    assert key.revoked_at is not None
    page = mia.get(address("change", key)).content.decode()
    assert "Revoked" in page
    assert address("rotate", key) not in page
    for what in ("rotate", "revoke"):
        assert mia.post(address(what, key), {"when": "now"}).status_code == 403


def test_the_list_leads_to_rotating_and_revoking_the_keys_that_are_not_over(
    mia: Client, prod: Environment, key: ApiKey, sign_in: SignIn, acme: Tenant
) -> None:
    yesterday = timezone.now() - timedelta(days=1)
    expired, _ = ApiKey.issue(prod, "expired", PRESETS["server"], expires_at=yesterday)
    revoked, _ = ApiKey.issue(prod, "revoked", PRESETS["server"])
    revoked.revoke()
    url = f"{reverse('admin:tenants_apikey_changelist')}?environment={prod}"
    page, looked_at = (
        client.get(url).content.decode() for client in (mia, sign_in("vic", acme, role=Role.VIEWER))
    )
    for what in ("rotate", "revoke"):
        assert [address(what, each) in page for each in (key, expired, revoked)] == [True, False, False]
        assert address(what, key) not in looked_at
    assert all(each.name in looked_at for each in (key, expired, revoked))


def test_a_revoked_key_says_that_its_old_secret_ended_too(mia: Client, key: ApiKey) -> None:
    mia.post(address("rotate", key), {"when": "day"})
    key.refresh_from_db()
    assert key.previous_ends_at is not None
    assert "works until <time" in mia.get(address("change", key)).content.decode()
    mia.post(address("revoke", key))
    page = mia.get(address("change", key)).content.decode()
    assert "ended with the key</dd>" in page
    assert "works until" not in page


def test_the_old_secret_is_ended_before_its_time_after_a_question(mia: Client, key: ApiKey) -> None:
    url, page = address("end_old_secret", key), address("change", key)
    assert url not in mia.get(page).content.decode()
    assert "has no old secret that works" in mia.get(url).content.decode()
    mia.post(address("rotate", key), {"when": "week"})
    assert url in mia.get(page).content.decode()
    asked = mia.get(url).content.decode()
    assert "are refused from the very next one on" in asked
    assert f'href="{address("change", key)}" class="tv-button">Keep both' in asked
    seen = re.search(r'name="seen" value="(\w+)"', asked)
    assert seen is not None
    key.refresh_from_db()
    assert key.old_secret_works, "asking changes nothing"

    said = mia.post(url, {"seen": seen[1]}, follow=True).content.decode()
    assert "are refused, from the very next call on" in said
    key.refresh_from_db()
    assert (key.old_secret_works, key.previous_hmac) == (False, None)
    assert "; ended <time" in said
    assert url not in said
    assert "An older secret" not in mia.get(address("rotate", key)).content.decode()


def test_a_page_of_before_another_rotation_ends_nothing(mia: Client, key: ApiKey) -> None:
    mia.post(address("rotate", key), {"when": "week"})
    key.refresh_from_db()
    seen = key.old_secret_mark
    mia.post(address("rotate", key), {"when": "week"})
    said = mia.post(address("end_old_secret", key), {"seen": seen}, follow=True).content.decode()
    assert "Nothing was changed: The key was rotated since" in said
    key.refresh_from_db()
    assert key.old_secret_works


def test_of_an_expired_key_the_old_secret_ended_with_it(mia: Client, key: ApiKey) -> None:
    mia.post(address("rotate", key), {"when": "week"})
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(days=1))
    assert "ended with the key</dd>" in mia.get(address("change", key)).content.decode()


def test_who_may_not_is_offered_nothing(sign_in: SignIn, acme: Tenant, other: Tenant, key: ApiKey) -> None:
    viewer = sign_in("vic", acme, role=Role.VIEWER)
    assert address("rotate", key) not in viewer.get(address("change", key)).content.decode()
    stranger = sign_in("sam", other)
    for what in ("rotate", "revoke", "end_old_secret"):
        assert viewer.get(address(what, key)).status_code == 403
        assert viewer.post(address(what, key), {"when": "now"}).status_code == 403
        assert stranger.post(address(what, key), {"when": "now"}).status_code == 404
    assert stranger.get(address("waiting", key)).status_code == 404
    assert viewer.get(address("waiting", key)).status_code == 200
    key.refresh_from_db()
    assert (key.revoked_at, key.previous_hmac, key.scopes[0]) == (None, None, EVALUATE)
