"""The recipes of docs/python-frameworks.md, run as a reader would run them, against the local provider."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tokvigil import TokVigil

from sdk.python.tests.frameworks.checks import Row
from sdk.python.tests.readme import REPOSITORY, python_blocks
from sdk.python.tests.wire_provider import WireProvider

DOCS = REPOSITORY / "docs/python-frameworks.md"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEYS = ("OPENAI", "ANTHROPIC", "GOOGLE", "GROQ", "MISTRAL", "ANTHROPIC_FOUNDRY")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "style" in metafunc.fixturenames:
        styles = metafunc.module.STYLES
        metafunc.parametrize("style", styles, ids=[f"{style.package}, {style.name}" for style in styles])


@pytest.fixture(scope="session", autouse=True)
def no_calls_out() -> Iterator[None]:
    """No framework may look for anything outside of this machine."""
    look_up, asked = socket.getaddrinfo, list[str]()

    def of_this_machine(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and name not in LOOPBACK:
            asked.append(name)
            raise socket.gaierror(f"{name} is outside of this machine")
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", of_this_machine)
        yield
    assert asked == []


@pytest.fixture
def recipe(
    tv: TokVigil, wire_provider: WireProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Callable[[str], SimpleNamespace]:
    """What the code under a heading of the docs makes, with the local provider in the place of all others."""
    for owner in KEYS:
        monkeypatch.setenv(f"{owner}_API_KEY", "key")
    for name, path in {
        "OPENAI_BASE_URL": "/v1",
        "OPENAI_API_BASE": "/v1",
        "ANTHROPIC_BASE_URL": "",
        "ANTHROPIC_BEDROCK_BASE_URL": "",
        "ANTHROPIC_VERTEX_BASE_URL": "",
        "ANTHROPIC_FOUNDRY_BASE_URL": "",
        "GOOGLE_GEMINI_BASE_URL": "",
        "GROQ_API_BASE": "",
        "MISTRAL_BASE_URL": "/v1",
    }.items():
        monkeypatch.setenv(name, wire_provider.url + path)
    for name, value in {
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "CLOUD_ML_REGION": "us-east5",
        "ANTHROPIC_VERTEX_PROJECT_ID": "project",
        "DSPY_CACHEDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)

    def run(heading: str) -> SimpleNamespace:
        made: dict[str, Any] = {"tv": tv}
        blocks = [block for block in python_blocks(DOCS) if block.heading == heading]
        assert blocks, heading
        for block in blocks:
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(block.file), "exec"), made)  # noqa: S102
        return SimpleNamespace(**made)

    return run


@pytest.fixture(scope="session")
def rows() -> dict[str, Row]:
    """What the table of the docs says of each package."""
    found = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[\d.]+", cells[1]):
            found[cells[0]] = Row(version=cells[1], errors=frozenset(re.findall(r"`(\w+)`", cells[3])))
    return found
