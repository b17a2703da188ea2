"""What a stranger learns from the refusal of a key: nothing, also not from the time it takes."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tenants import keys
from tenants.models import Environment
from tokvigil_site.testing import Api

SECRET = "S" * keys.SECRET_LENGTH
UNKNOWN_ID = "U" * keys.ID_LENGTH
BODY = {"user_id": "u", "model": "m", "input_tokens": 1, "max_output_tokens": 0}


def asked_with(api: Api, key_id: str, secret: str = SECRET) -> int:
    stranger = Api.__new__(Api)
    stranger.environment, stranger.text = api.environment, f"tv_prod_{key_id}_{secret}"
    return stranger.post("/v1/evaluate", BODY).status


def test_an_unknown_id_takes_the_work_of_a_wrong_secret(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.evaluate()
    digested: list[str] = []
    digest = keys.digest

    def digest_and_note(secret: str, pepper_id: str) -> bytes:
        digested.append(secret)
        return digest(secret, pepper_id)

    monkeypatch.setattr(keys, "digest", digest_and_note)

    def work(key_id: str) -> tuple[int, int, str]:
        keys.proves.cache_clear()
        digested.clear()
        with CaptureQueriesContext(connection) as queries:
            assert asked_with(api, key_id) == 401
        sql = " ".join(query["sql"] for query in queries)
        return len(queries), len(digested), "plain" if "JOIN" not in sql and "ORDER" not in sql else sql

    assert work(UNKNOWN_ID) == work(api.key.key_id) == (1, 1, "plain")


def test_an_id_that_was_unknown_is_in_force_from_its_first_call_on(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked_with(api, UNKNOWN_ID) == 401
    mint = keys.mint

    def same_id(slug: str) -> keys.Minted:
        minted = mint(slug)
        text = minted.text.replace(minted.key_id, UNKNOWN_ID)
        return keys.Minted(
            text=text, key_id=UNKNOWN_ID, pepper_id=minted.pepper_id, secret_hmac=minted.secret_hmac
        )

    monkeypatch.setattr(keys, "mint", same_id)
    assert Api(environment).evaluate()["allowed"]
