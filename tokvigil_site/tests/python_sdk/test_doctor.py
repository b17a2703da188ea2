"""`python -m tokvigil doctor` reads what `GET /v1/me` really answers."""

from __future__ import annotations

from pathlib import Path

from tokvigil import doctor

from tenants.models import Environment
from tokvigil_site.testing import Api
from tokvigil_site.tests.servers import WebProcess


def examined(web: WebProcess, api: Api, journal: Path) -> dict[str, str]:
    """The level of each check, with a colon and the text where it is not ok."""
    found = {}
    for finding in doctor.examine(api.text, web.url, str(journal)):
        assert api.text.rpartition("_")[2] not in str(finding)
        found[finding.about] = finding.level if finding.level == "ok" else str(finding)
    return found


def test_a_server_key_is_well(web: WebProcess, api: Api, tmp_path: Path) -> None:
    assert set(examined(web, api, tmp_path / "journal").values()) == {"ok"}


def test_a_viewer_key_cannot_do_what_the_sdk_does(
    web: WebProcess, environment: Environment, tmp_path: Path
) -> None:
    viewer = Api(environment, preset="viewer")
    assert "usage:write is missing" in examined(web, viewer, tmp_path / "journal")["scopes"]


def test_a_revoked_key_is_refused(web: WebProcess, api: Api, tmp_path: Path) -> None:
    api.key.revoke()
    found = examined(web, api, tmp_path / "journal")
    assert found["control plane"] == "ok"
    assert "INVALID_API_KEY" in found["key"]
