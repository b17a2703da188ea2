"""The Python SDK beside the application itself: a web process, PostgreSQL and Valkey."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
)
from tokvigil_site.tests.python_sdk import MESSAGES, MODEL, PATIENT_S, Call
from tokvigil_site.tests.servers import WebProcess, session_variables, web_processes


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    with web_processes(1, tmp_path_factory.mktemp("web"), session_variables()) as (process,):
        yield process


@pytest.fixture
def provider() -> Iterator[WireProvider]:
    server = WireProvider()
    yield server
    server.close()


@pytest.fixture
def connect(web: WebProcess, environment: Environment, tmp_path: Path) -> Iterator[Callable[..., TokVigil]]:
    """A client for an API key; all of them are closed while the environment is still there."""
    with ExitStack() as clients:

        def connected(api: Api, url: str = web.url, **options: Any) -> TokVigil:
            defaults: dict[str, Any] = {
                "journal": tmp_path / "journal",
                "timeout": PATIENT_S,
            }
            return clients.enter_context(TokVigil(api_key=api.text, base_url=url, **(defaults | options)))

        yield connected


@pytest.fixture
def client(connect: Callable[..., TokVigil], api: Api) -> TokVigil:
    return connect(api)


@pytest.fixture
def chat(client: TokVigil, provider: WireProvider) -> Call:
    def call(user_id: str = "user_1", client: TokVigil = client, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "provider_base_url": provider.url + "/v1",
            "provider_api_key": "sk-caller",
            "max_output_tokens": 100,
        }
        return client.chat(
            user_id=user_id, feature="chat", model=MODEL, messages=MESSAGES, **(arguments | changes)
        )

    return call
