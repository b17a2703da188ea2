"""Real servers to talk to: a scriptable control plane, a scriptable provider, the demo provider."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import Books

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang_up: bool = False  # close the connection without a word


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes


def about(seen: Seen, answer: Answer) -> Answer:
    """With the request id that was sent: TokVigil names it in its answers."""
    asked = seen.body.get("request_id") if isinstance(seen.body, dict) else None
    named = answer.body.get("request_id") if isinstance(answer.body, dict) else None
    if asked is None or named is None or answer.status >= 300:
        return answer
    return replace(answer, body=answer.body | {"request_id": asked})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class FakeServer:
    """Answers from a script per path, else from `defaults`; remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.scripts: dict[str, deque[Answer]] = defaultdict(deque)
        self.defaults: dict[str, Callable[[Seen], Answer]] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen = Seen(
                    self.command, self.path, dict(self.headers.items()), json.loads(raw) if raw else None, raw
                )
                fake.seen.append(seen)
                key = self.path.split("?")[0]
                script = fake.scripts[key]
                answer = (
                    about(seen, script.popleft())
                    if script
                    else fake.defaults.get(key, lambda _: Answer(404))(seen)
                )
                time.sleep(answer.delay_s)
                if answer.hang_up:
                    self.close_connection = True
                    return
                body = (
                    answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body or {}).encode()
                )
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def script(self, path: str, *answers: Answer) -> None:
        self.scripts[path].extend(answers)

    def calls(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.split("?")[0] == path]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class ControlPlane(FakeServer):
    """Allows everything and charges it, once per request id, unless scripted otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: dict[str, Any] = {}
        self.defaults = {
            "/v1/evaluate": lambda seen: Answer(200, decision(seen.body["request_id"])),
            "/v1/usage": lambda seen: Answer(201, self.charge(seen.body)),
            "/v1/usage/batch": lambda seen: Answer(
                200, {"results": [self.settle(e) for e in seen.body["events"]]}
            ),
        }

    def charge(self, event: dict[str, Any]) -> dict[str, Any]:
        duplicate = self.charged.setdefault(event["request_id"], event) is not event
        return {
            "request_id": event["request_id"],
            "duplicate": duplicate,
            "cost_usd": "0.000198000",
            "priced": True,
            "limit_state": [],
        }

    def settle(self, event: dict[str, Any]) -> dict[str, Any]:
        if self.charged.get(event["request_id"], event) != event:
            return {"request_id": event["request_id"], "status": "conflict"}
        duplicate = self.charge(event)["duplicate"]
        return {"request_id": event["request_id"], "status": "duplicate" if duplicate else "recorded"}


def decision(request_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "allowed": True,
        "reason_code": "ALLOWED",
        "reason_class": "allowed",
        "message": "",
        "policy": {"id": "p1", "name": "Free plan", "version": 7, "scope": "plan"},
        "shadow": None,
        "limit_state": [],
        "retry_after": None,
        "estimated_cost_usd": "0.000198",
        "reserved": {"input_tokens": 10, "output_tokens": 100},
        "expires_at": "2026-11-24T00:10:00Z",
        "max_output_tokens": 100,
        "suggested_model": None,
        "degraded": False,
        "trace": None,
    } | changes


def blocked(request_id: str = "r-blocked", **changes: Any) -> dict[str, Any]:
    state = {
        "policy": "Free plan",
        "metric": "requests",
        "window": "day",
        "per": "user",
        "limit": 50,
        "used": 49,
        "held": 1,
        "remaining": 0,
        "resets_at": "2026-11-24T00:00:00Z",
        "exceeded": True,
    }
    return decision(
        request_id,
        allowed=False,
        reason_code="DAILY_REQUEST_LIMIT_EXCEEDED",
        reason_class="exhausted",
        message="Daily request limit of 50 reached for user user_123.",
        limit_state=[state],
        retry_after=3600,
        reserved=None,
        expires_at=None,
        max_output_tokens=None,
        suggested_model="gpt-4o-mini",
        **changes,
    )


def completion(**changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello!"}}
        ],
        "usage": {
            "prompt_tokens": 1_200,
            "completion_tokens": 90,
            "total_tokens": 1_290,
            "prompt_tokens_details": {"cached_tokens": 1_024},
            "completion_tokens_details": {"reasoning_tokens": 64},
        },
    } | changes


class Wire:
    """What the tests write answers with."""

    Answer = Answer
    decision = staticmethod(decision)
    blocked = staticmethod(blocked)
    completion = staticmethod(completion)


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


@pytest.fixture(autouse=True)
def no_ambient_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for owner in ("TOKVIGIL", "OPENAI", "ANTHROPIC", "GEMINI", "GOOGLE"):
        monkeypatch.delenv(f"{owner}_API_KEY", raising=False)
        monkeypatch.delenv(f"{owner}_BASE_URL", raising=False)
    monkeypatch.delenv("GOOGLE_GEMINI_BASE_URL", raising=False)
    monkeypatch.setenv("TOKVIGIL_JOURNAL", str(tmp_path / "journal"))


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All servers here speak plain HTTP, and each HTTP client would take 20 ms to read all certificates there are."""
    certificates = Path(certifi.where()).read_text()
    end = "-----END CERTIFICATE-----"
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(certificates.partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    server = ControlPlane()
    yield server
    server.close()


@pytest.fixture
def provider() -> Iterator[FakeServer]:
    server = FakeServer()
    server.defaults["/v1/chat/completions"] = lambda _: Answer(200, completion())
    yield server
    server.close()


@pytest.fixture
def tv(control_plane: ControlPlane) -> Iterator[TokVigil]:
    with TokVigil(
        api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=1.0, max_retries=2
    ) as client:
        yield client


@pytest.fixture
def chat(tv: TokVigil, provider: FakeServer) -> Callable[..., Any]:
    """`tv.chat` with everything filled in; keywords override."""

    def call(client: TokVigil = tv, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "user_id": "user_123",
            "feature": "chat",
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "Say hello to Ada Lovelace"}],
            "provider_base_url": provider.url + "/v1",
            "provider_api_key": "sk-caller",
        }
        return client.chat(**(arguments | changes))

    return call


@pytest.fixture(scope="session")
def demo_provider_url() -> Iterator[str]:
    """The demo's provider as its own process; the SDK does not import it."""
    if not (REPOSITORY / "tokvigil_site/demo/provider/__main__.py").exists():
        pytest.skip("the demo provider is not in this checkout")
    process = subprocess.Popen(
        [sys.executable, "-m", "tokvigil_site.demo.provider", "--port", "0"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
def unreachable() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def wire_provider() -> Iterator[WireProvider]:
    """OpenAI, Azure, Anthropic and Gemini, for the providers' own SDKs."""
    server = WireProvider()
    yield server
    server.close()


@pytest.fixture
def books(tv: TokVigil, control_plane: ControlPlane) -> Books:
    """What TokVigil was asked and told of the calls of `tv`."""
    return Books(tv, control_plane)
