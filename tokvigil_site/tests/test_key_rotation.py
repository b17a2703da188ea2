"""A rotated key has a new secret; the old one works until it ends. Both bind the very next call."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.utils import timezone

from audit.models import Entry
from tenants import keys, last_used
from tokvigil_site.testing import Api


def status(api: Api, text: str, path: str = "/v1/me") -> int:
    api.text = text
    if path == "/v1/me":
        return api.get(path).status
    body = {"user_id": "ann", "model": "m", "input_tokens": 1, "max_output_tokens": 0}
    return api.post(path, body).status


@pytest.mark.parametrize("path", ["/v1/me", "/v1/evaluate"])
def test_both_secrets_work_until_the_old_one_ends(api: Api, path: str) -> None:
    old = api.text
    assert status(api, old, path) == 200
    ends_at = timezone.now() + timedelta(hours=1)
    new = api.key.rotate(old_ends_at=ends_at)
    assert new != old
    assert [status(api, text, path) for text in (old, new)] == [200, 200]
    with time_machine.travel(ends_at + timedelta(seconds=1)):
        assert [status(api, text, path) for text in (old, new)] == [401, 200]


@pytest.mark.parametrize("path", ["/v1/me", "/v1/evaluate"])
def test_a_leaked_secret_is_refused_from_the_next_call_on(api: Api, path: str) -> None:
    old = api.text
    assert status(api, old, path) == 200
    new = api.key.rotate()
    assert [status(api, text, path) for text in (old, new)] == [401, 200]


def test_the_key_stays_the_same_key(api: Api) -> None:
    before, after = keys.parse(api.text), keys.parse(api.key.rotate())
    assert before is not None
    assert after is not None
    assert (before.key_id, before.secret == after.secret) == (after.key_id, False)


def test_only_the_latest_of_the_old_secrets_lasts(api: Api) -> None:
    first = api.text
    in_a_week = timezone.now() + timedelta(days=7)
    second = api.key.rotate(old_ends_at=in_a_week)
    third = api.key.rotate(old_ends_at=in_a_week)
    assert [status(api, text) for text in (first, second, third)] == [401, 200, 200]


def test_a_revoked_key_is_neither_rotated_nor_saved_by_its_old_secret(api: Api) -> None:
    old = api.text
    new = api.key.rotate(old_ends_at=timezone.now() + timedelta(days=1))
    api.key.revoke()
    assert [status(api, text) for text in (old, new)] == [401, 401]
    with pytest.raises(ValidationError):
        api.key.rotate()


@pytest.mark.parametrize("path", ["/v1/me", "/v1/evaluate"])
def test_an_old_secret_that_is_ended_is_refused_from_the_next_call_on(api: Api, path: str) -> None:
    old = api.text
    in_a_week = timezone.now() + timedelta(days=7)
    new = api.key.rotate(old_ends_at=in_a_week)
    assert [status(api, text, path) for text in (old, new)] == [200, 200]
    assert api.key.end_old_secret()
    assert [status(api, text, path) for text in (old, new)] == [401, 200]
    entry = Entry.objects.get(action="api_key.old_secret_ended")
    assert entry.data == {"environment": "prod", "would_end_at": in_a_week.isoformat()}
    assert not api.key.end_old_secret(), "again does nothing"
    assert Entry.objects.filter(action="api_key.old_secret_ended").count() == 1


def test_without_an_old_secret_that_works_there_is_none_to_end(api: Api) -> None:
    assert not api.key.end_old_secret()
    api.key.rotate()
    assert not api.key.end_old_secret()
    api.key.rotate(old_ends_at=timezone.now() - timedelta(seconds=1))
    assert not api.key.end_old_secret()
    api.key.rotate(old_ends_at=timezone.now() + timedelta(days=1))
    api.key.revoke()
    assert not api.key.end_old_secret()
    assert not Entry.objects.filter(action="api_key.old_secret_ended").exists()


def test_another_old_secret_than_was_seen_is_not_ended(api: Api) -> None:
    in_a_week = timezone.now() + timedelta(days=7)
    api.key.rotate(old_ends_at=in_a_week)
    seen = api.key.old_secret_mark
    text = api.key.rotate(old_ends_at=in_a_week)
    with pytest.raises(ValidationError):
        api.key.end_old_secret(seen=seen)
    api.key.rotate(old_ends_at=in_a_week)
    assert status(api, text) == 200
    assert api.key.end_old_secret(seen=api.key.old_secret_mark)


@pytest.mark.parametrize("path", ["/v1/me", "/v1/evaluate"])
def test_the_use_of_the_old_secret_is_noted_apart_from_that_of_the_new_one(api: Api, path: str) -> None:
    def used() -> tuple[bool, bool]:
        last_used._writer.submit(int).result()
        api.key.refresh_from_db()
        return api.key.last_used_at is not None, api.key.previous_used_at is not None

    old = api.text
    assert status(api, old, path) == 200
    new = api.key.rotate(old_ends_at=timezone.now() + timedelta(days=1))
    assert used() == (True, False), "not since the rotation"
    assert status(api, new, path) == 200
    assert used() == (True, False)
    assert status(api, old, path) == 200
    assert used() == (True, True)
    last_used.forget_all()
    newest = api.key.rotate(old_ends_at=timezone.now() + timedelta(days=1))
    last_used._write(api.key.pk, api.key.environment.pk.to_bytes(32))
    assert used() == (True, False), "another secret is the old one"
    assert status(api, newest, path) == 200
    assert used() == (True, False)


def test_rotating_is_audited_without_a_secret(api: Api) -> None:
    ends_at = timezone.now() + timedelta(days=1)
    text = api.key.rotate(old_ends_at=ends_at)
    entry = Entry.objects.get(action="api_key.rotated")
    assert entry.data == {"environment": "prod", "old_ends_at": ends_at.isoformat()}
    assert text.rpartition("_")[2] not in str(list(Entry.objects.values()))
