"""`GET /v1/me`."""

from datetime import UTC, datetime

from tenants.models import Environment
from tokvigil_site.testing import Api
from tokvigil_site.tests.callers import caller_with


def test_it_says_whom_the_key_belongs_to_and_what_it_may_do(environment: Environment) -> None:
    api = Api(environment, preset="viewer", expires_at=datetime(2099, 1, 1, tzinfo=UTC))

    answer = api.get("/v1/me")

    assert answer.status == 200
    assert answer.json == {
        "tenant": {"slug": "acme", "name": "acme", "timezone": "Europe/Berlin"},
        "environment": {"slug": "prod", "frozen": False, "default_action": "allow"},
        "key": {
            "name": "test",
            "key_id": api.key.key_id,
            "scopes": ["policies:read", "usage:read"],
            "expires_at": "2099-01-01T00:00:00Z",
        },
    }


def test_a_freeze_shows(api: Api, environment: Environment) -> None:
    environment.frozen = True
    environment.save()

    assert api.get("/v1/me").json["environment"]["frozen"] is True


def test_it_never_shows_the_secret(environment: Environment) -> None:
    api = caller_with(environment, "evaluate")

    assert api.text.rpartition("_")[2].encode() not in api.get("/v1/me").content


def test_a_revoked_key_is_nobody(api: Api) -> None:
    api.key.revoke()

    assert api.get("/v1/me").status == 401
