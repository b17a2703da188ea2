"""An address that never was TokVigil's is a mistake in the configuration; later it is an outage."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokvigil import AsyncTokVigil, ConfigurationError, RefusedError, TokVigil, Usage, UsageEvent, transport

from sdk.python.tests.conftest import ControlPlane
from sdk.python.tests.self_signed import self_signed
from sdk.python.tests.wrapped import CHAT

EVENT = UsageEvent(
    request_id="r1", user_id="ada", model="gpt-4o-mini", usage=Usage(input_tokens=1, output_tokens=1)
)
PAGE = b"<html>Welcome to the airport WLAN</html>"


@pytest.fixture(autouse=True)
def nobody_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports come back in one process, and with them what it knows of addresses."""
    monkeypatch.setattr(transport, "_answering", set())


@pytest.fixture(params=["status", "redirect", "away", "page", "other JSON", "no object"])
def foreign(request: pytest.FixtureRequest, wire: Any) -> Any:
    """What answers at a wrong address, and what the error says."""
    return {
        "status": (wire.Answer(404, PAGE), "no /v1/evaluate at it, so this is not TokVigil: check host"),
        "redirect": (
            wire.Answer(301, headers={"Location": "https://ada:swordfish@tv.example/v1/evaluate"}),
            "set base_url to https://tv.example$",
        ),
        "away": (wire.Answer(302, headers={"Location": "/login"}), "answers 302, and TokVigil does not"),
        "page": (wire.Answer(200, PAGE), "something that is not TokVigil"),
        "other JSON": (wire.Answer(200, {"status": "ok"}), "something that is not TokVigil"),
        "no object": (wire.Answer(200, b"[]"), "something that is not TokVigil"),
    }[request.param]


@pytest.mark.parametrize("on_unreachable", ["allow", "last_known", "block"])
def test_at_first_a_foreign_answer_is_a_configuration_error(
    control_plane: Any, foreign: Any, on_unreachable: Any
) -> None:
    answer, said = foreign
    control_plane.defaults["/v1/evaluate"] = lambda _: answer
    with TokVigil(api_key="key", base_url=control_plane.url, on_unreachable=on_unreachable) as tv:
        for _ in range(5):
            with pytest.raises(ConfigurationError, match=said) as caught:
                tv.evaluate(user_id="ada", model="gpt-4o-mini")
        assert control_plane.url in str(caught.value)
        assert "swordfish" not in str(caught.value)
        assert len(control_plane.seen) == 5, "each call asks, once"


def test_the_same_awaited(control_plane: Any, foreign: Any) -> None:
    answer, said = foreign
    control_plane.defaults["/v1/evaluate"] = lambda _: answer

    async def ask() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            await tv.evaluate(user_id="ada", model="gpt-4o-mini")

    with pytest.raises(ConfigurationError, match=said):
        asyncio.run(ask())


def test_after_one_valid_answer_it_is_an_outage_for_all_clients_of_the_process(
    control_plane: Any, wire: Any, foreign: Any
) -> None:
    answer, _ = foreign
    with TokVigil(api_key="key", base_url=control_plane.url) as tv:
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded
        control_plane.defaults["/v1/evaluate"] = lambda _: answer
        assert tv.evaluate(user_id="ada", model="gpt-4o-mini").reason_code == "DEGRADED_ALLOWED"
    with TokVigil(api_key="other", base_url=control_plane.url) as another:
        assert another.evaluate(user_id="ada", model="gpt-4o-mini").reason_code == "DEGRADED_ALLOWED"


@pytest.mark.parametrize("status", [400, 401, 403, 405, 422])
def test_a_page_that_refuses_is_of_another_server_until_tokvigil_has_answered(
    control_plane: Any, wire: Any, status: int
) -> None:
    """As of a proxy that wants a log-in. It is never an outage: a wrong key must not switch the limits off."""
    page, known = wire.Answer(status, PAGE), wire.Answer(200, wire.decision("r1"))
    control_plane.script("/v1/evaluate", page, known, page)
    with TokVigil(api_key="key", base_url=control_plane.url) as tv:
        with pytest.raises(ConfigurationError, match=f"answers {status} with a page"):
            tv.evaluate(user_id="ada", model="gpt-4o-mini")
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini", request_id="r1").degraded
        with pytest.raises(RefusedError, match=f"answered {status}"):
            tv.evaluate(user_id="ada", model="gpt-4o-mini")


def test_a_refusal_is_not_yet_a_valid_answer(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(503), wire.Answer(429), wire.Answer(200, PAGE))
    with TokVigil(api_key="key", base_url=control_plane.url) as tv, pytest.raises(ConfigurationError):
        tv.evaluate(user_id="ada", model="gpt-4o-mini")


def test_a_wrapped_client_says_so_too(control_plane: Any, wire: Any, wire_provider: Any) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(200, PAGE)
    with TokVigil(api_key="key", base_url=control_plane.url) as tv:
        client = tv.wrap(openai.OpenAI(api_key="sk", base_url=wire_provider.url + "/v1"), user_id="ada")
        with pytest.raises(ConfigurationError, match="something that is not TokVigil"):
            client.chat.completions.create(**CHAT)
    assert wire_provider.seen == []


def test_other_methods_say_so_too(control_plane: Any, wire: Any) -> None:
    for path in ("/v1/limits", "/v1/usage"):
        control_plane.defaults[path] = lambda _: wire.Answer(200, PAGE)
    with TokVigil(api_key="key", base_url=control_plane.url) as tv:
        with pytest.raises(ConfigurationError):
            tv.limits(user_id="ada")
        with pytest.raises(ConfigurationError):
            tv.report_now(EVENT)


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_name_that_does_not_exist_is_told_from_a_name_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, code: int, awaited: bool
) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    if code == socket.EAI_AGAIN:
        assert ask("http://tokvigil.example", awaited=awaited).degraded
    else:
        with pytest.raises(ConfigurationError, match="does not resolve"):
            ask("http://tokvigil.example", awaited=awaited)


@pytest.mark.parametrize("awaited", [False, True])
def test_an_address_where_nobody_listens_is_an_outage_from_the_start(unreachable: str, awaited: bool) -> None:
    assert ask(unreachable, awaited=awaited).degraded


@pytest.mark.parametrize("awaited", [False, True])
def test_https_to_a_server_without_it_is_said(control_plane: Any, awaited: bool) -> None:
    with pytest.raises(ConfigurationError, match="does not speak TLS"):
        ask(control_plane.url.replace("http://", "https://"), awaited=awaited)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane with a certificate that nobody knows, and the file that vouches for it."""
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    plane = ControlPlane()
    plane.server.socket = context.wrap_socket(plane.server.socket, server_side=True)
    plane.url = plane.url.replace("http://127.0.0.1", "https://localhost")
    yield plane, certificate
    plane.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_a_certificate_that_cannot_be_verified_is_said(
    secure: tuple[ControlPlane, Path], awaited: bool
) -> None:
    with pytest.raises(ConfigurationError, match="`verify`"):
        ask(secure[0].url, awaited=awaited)


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("how", ["file", "directory", "context", "any"])
def test_verify_says_which_certificates_to_trust(
    secure: tuple[ControlPlane, Path], tmp_path: Path, how: str, awaited: bool
) -> None:
    plane, certificate = secure
    verify: Any = False
    if how == "file":
        verify = str(certificate)
    elif how == "directory":
        verify = certificate.parent
    elif how == "context":
        verify = ssl.create_default_context(cafile=certificate)
    assert not ask(plane.url, awaited=awaited, verify=verify).degraded
    (reported,) = plane.calls("/v1/usage/batch")
    assert reported.body["events"][0]["request_id"] == "r1", "reports take the same way"


def ask(url: str, *, awaited: bool, **options: Any) -> Any:
    """A question, and a report."""
    options = {"max_retries": 0, "timeout": 5.0} | options

    async def main() -> Any:
        async with AsyncTokVigil(api_key="key", base_url=url, **options) as tv:
            decision = await tv.evaluate(user_id="ada", model="gpt-4o-mini")
            tv.report(EVENT)
            return decision

    if awaited:
        return asyncio.run(main())
    with TokVigil(api_key="key", base_url=url, **options) as tv:
        decision = tv.evaluate(user_id="ada", model="gpt-4o-mini")
        tv.report(EVENT)
        return decision
