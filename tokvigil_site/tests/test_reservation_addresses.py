"""Any request id can be released and extended, whatever it looks like in a path: the verb tells which is meant."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tokvigil_site.testing import Api

NAMES = [
    "a/extend",
    "extend",
    "/extend",
    "extend/extend",
    "a/extend/extend",
    "a/",
    "a b?c#d",
    "a\nb/extend",
    "é/extend",
]


@pytest.mark.parametrize("safe", ["", "/"], ids=["encoded", "plain"])
@pytest.mark.parametrize("request_id", NAMES)
def test_a_hold_is_extended_and_released(api: Api, request_id: str, safe: str) -> None:
    assert api.evaluate(request_id=request_id)["allowed"]
    address = f"/v1/reservations/{quote(request_id, safe=safe)}"

    extended = api.post(f"{address}/extend", {"seconds": 1200})
    assert (extended.status, extended.json["request_id"]) == (200, request_id)

    assert api.request("DELETE", address).status == 204
    assert api.post(f"{address}/extend", {}).status == 404


def test_a_name_that_ends_so_is_not_its_beginning(api: Api) -> None:
    assert api.evaluate(request_id="a")["allowed"]
    assert api.evaluate(request_id="a/extend")["allowed"]
    assert api.request("DELETE", "/v1/reservations/a/extend").status == 204
    # The other one is still open.
    assert api.post("/v1/reservations/a/extend", {}).json["request_id"] == "a"


def test_other_verbs_are_refused(api: Api) -> None:
    for address, verbs in (("/v1/reservations/a/extend", "PUT GET"), ("/v1/reservations/a", "POST GET")):
        for verb in verbs.split():
            assert api.request(verb, address).status == 405
