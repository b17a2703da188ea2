"""The HTTP server: keys, failures, latency, and chats answered whole or streamed."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tokvigil import estimate

from tokvigil_site.demo.provider import wire
from tokvigil_site.demo.provider.model import Model, PromptCache
from tokvigil_site.demo.provider.wire import Answer, ChatCall, Failure, RefusedError, not_found, refused

BODY_BYTES_MAX = 8 * 1024 * 1024
CONTEXT_TOKENS_MAX = 128_000
IDLE_S_MAX = 60.0
HANG_S = 30.0

MODELS = {
    "gpt-4o-mini": "openai",
    "gpt-4o": "openai",
    "gpt-4.1": "openai",
    "gpt-5": "openai",
    "gpt-5-mini": "openai",
    "o3": "openai",
    "claude-haiku-4-5": "anthropic",
    "claude-sonnet-4-5": "anthropic",
    "gemini-2.5-flash": "google",
    "gemini-2.5-pro": "google",
}

SERVER_FAILURE = Failure(
    status=500, message="The server had an error while processing your request.", type="server_error"
)
FAILING_MODELS = {
    "broken-model": SERVER_FAILURE,
    "busy-model": Failure(
        status=429, message="Rate limit reached.", type="requests", code="rate_limit_exceeded"
    ),
    "missing-model": Failure(
        status=404, message="The model `missing-model` does not exist.", code="model_not_found"
    ),
}
HANGING_MODEL = "hanging-model"  # answers after HANG_S: for time-outs


class ProviderServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, *, latency_ms: float, failure_rate: float) -> None:
        super().__init__(("127.0.0.1", port), ProviderHandler)
        self.latency_s = latency_ms / 1000
        self.failure_rate = failure_rate
        self.model = Model()
        self.prompt_cache = PromptCache()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in mid-answer is no event; anything else is a defect and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class ProviderHandler(BaseHTTPRequestHandler):
    server: ProviderServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S_MAX
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/v1/models":
            self._fail(not_found(self.command, self.path))
        elif failure := self._key_failure():
            self._fail(failure)
        else:
            models = [
                {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": owner}
                for name, owner in MODELS.items()
            ]
            self._send(HTTPStatus.OK, {"object": "list", "data": models})

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path.partition("?")[0] != "/v1/chat/completions":
                raise RefusedError(not_found(self.command, self.path))
            if failure := self._key_failure():
                raise RefusedError(failure)
            self._chat(ChatCall.read(body))
        except RefusedError as refused:
            self._fail(refused.failure)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the demo prints what matters."""

    def _chat(self, call: ChatCall) -> None:
        time.sleep(HANG_S if call.model == HANGING_MODEL else self.server.latency_s)
        if call.model in FAILING_MODELS:
            raise RefusedError(FAILING_MODELS[call.model])
        if random.random() < self.server.failure_rate:  # noqa: S311
            raise RefusedError(SERVER_FAILURE)
        prompt_tokens = estimate(call.model, call.messages, tools=call.tools, exact=True).input_tokens
        if prompt_tokens > CONTEXT_TOKENS_MAX:
            message = f"This model's maximum context length is {CONTEXT_TOKENS_MAX} tokens."
            raise refused(message, "messages", "context_length_exceeded")
        answer = self.server.model.answer(call)
        cached_tokens = self.server.prompt_cache.cached_tokens(call.model, call.messages)
        reported = wire.usage(prompt_tokens, cached_tokens, answer, call.choices)
        head = {
            "id": f"chatcmpl-{random.getrandbits(96):024x}",
            "created": int(time.time()),
            "model": call.model,
            "service_tier": "default",
            "system_fingerprint": "fp_tokvigil_demo",
        }
        if call.stream:
            self._stream(call, head, answer, reported)
            return
        choice = {
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        choices = [{"index": index} | choice for index in range(call.choices)]
        self._send(
            HTTPStatus.OK, {"object": "chat.completion"} | head | {"choices": choices, "usage": reported}
        )

    def _stream(
        self, call: ChatCall, head: Mapping[str, Any], answer: Answer, usage: Mapping[str, Any]
    ) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # With include_usage every chunk has the field; only the last one, which has no choices, fills it.
        extra = {"usage": None} if call.include_usage else {}
        chunk = {"object": "chat.completion.chunk"} | dict(head) | extra
        for index in range(call.choices):
            for delta, finish_reason in wire.deltas(answer):
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
                self._event(json.dumps(chunk | {"choices": [choice]}))
        if call.include_usage:
            self._event(json.dumps(chunk | {"choices": [], "usage": usage}))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.flush()

    def _key_failure(self) -> Failure | None:
        scheme, _, key = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key.strip():
            return Failure(status=401, message="You didn't provide an API key.")
        if not key.startswith("sk-"):
            return Failure(status=401, message="Incorrect API key provided.", code="invalid_api_key")
        return None

    def _body(self) -> Any:
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = -1
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True  # the body stays unread
            raise RefusedError(Failure(status=413, message="The request body is too large."))
        try:
            return json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            return None

    def _fail(self, failure: Failure) -> None:
        self._send(failure.status, failure.body())

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-request-id", f"req_{random.getrandbits(96):024x}")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content)
