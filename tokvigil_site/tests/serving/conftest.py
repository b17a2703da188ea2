from __future__ import annotations

from collections.abc import Iterator

import pytest

from tokvigil_site.testing import Api
from tokvigil_site.tests.servers import WebApi, WebProcess, session_variables, web_processes


@pytest.fixture(scope="module")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    with web_processes(1, tmp_path_factory.mktemp("web"), session_variables()) as started:
        yield started[0]


@pytest.fixture
def web(api: Api, server: WebProcess) -> WebApi:
    return WebApi(api, server.port)
