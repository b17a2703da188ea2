"""A local AI provider that speaks OpenAI's wire format: no account and no network needed.

    python -m tokvigil_site.demo.provider --port 0        prints its base URL, then serves until it is stopped
    with start_provider() as base_url: ...                the same as a child process that ends with the block

It counts prompt tokens really, answers the demo conversations with their scripted text and everything else
with filler, and reports usage as OpenAI does: cached prompt tokens on a repeated long prefix, reasoning
tokens on models that reason. Models named in FAILING_MODELS fail, always in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tokvigil.token_encodings import encoding
from tokvigil.tokens import count_messages, count_text, encoding_name

from tokvigil_site.demo.conversations import digest, digests, load_conversations

BODY_BYTES_MAX = 8 * 1024 * 1024
CONTEXT_TOKENS_MAX = 128_000
CHOICES_MAX = 8
MESSAGES_MAX = 2_048
OUTPUT_TOKENS_MAX = 16_384
STREAM_WORDS_PER_CHUNK = 4
IDLE_S_MAX = 60.0
HANG_S = 30.0
START_S_MAX = 30.0
STOP_S_MAX = 5.0

# OpenAI's prompt cache: prefixes from 1,024 tokens on, in steps of 128.
CACHED_TOKENS_MIN = 1_024
CACHED_TOKENS_STEP = 128
CACHED_PREFIXES_MAX = 4_096

REASONING_MODEL = re.compile(r"^(o\d|gpt-[5-9])")
REASONING_TOKENS_STEP = 64

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error in OpenAI's shape."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


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


class RefusedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """A checked request. Raises `RefusedError` while being read."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[Any]
    output_tokens_max: int
    choices: int
    stream: bool
    include_usage: bool

    @classmethod
    def read(cls, data: Any) -> ChatCall:
        if not isinstance(data, dict):
            raise _refused("We could not parse the JSON body of your request.")
        model, messages = data.get("model"), data.get("messages")
        if not isinstance(model, str) or not model:
            raise _refused("you must provide a model parameter")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise _refused("'messages' must be a non-empty array of objects.", "messages")
        if len(messages) > MESSAGES_MAX:
            raise _refused(f"'messages' may have at most {MESSAGES_MAX} elements.", "messages")
        caps = [_positive(data, name, OUTPUT_TOKENS_MAX) for name in ("max_tokens", "max_completion_tokens")]
        options = data.get("stream_options")
        tools = data.get("tools")
        return cls(
            model=model,
            messages=messages,
            tools=tools if isinstance(tools, list) else [],
            output_tokens_max=min(caps),
            choices=_positive(data, "n", 1, CHOICES_MAX),
            stream=data.get("stream") is True,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model "says", the same for every choice. `output_tokens` includes the reasoning."""

    text: str
    finish_reason: str
    output_tokens: int
    reasoning_tokens: int


class PromptCache:
    """Which message prefixes were seen before: bounded, and shared between threads."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def cached_tokens(self, model: str, messages: Sequence[Mapping[str, Any]]) -> int:
        """Prompt tokens that an earlier request of this model has in common; remembers this request."""
        prefixes = [f"{model}:{prefix}" for prefix in reversed(digests(messages))]
        with self._lock:
            known = next((at for at, prefix in enumerate(prefixes) if prefix in self._seen), None)
            for prefix in prefixes:
                self._seen[prefix] = None
                self._seen.move_to_end(prefix)
            while len(self._seen) > CACHED_PREFIXES_MAX:
                self._seen.popitem(last=False)
        if known is None:
            return 0
        tokens = count_messages(messages[: len(messages) - known], model)
        return tokens // CACHED_TOKENS_STEP * CACHED_TOKENS_STEP if tokens >= CACHED_TOKENS_MIN else 0


class Model:
    """All models: scripted answers for known conversations, filler for the rest."""

    def __init__(self) -> None:
        self._scripts = {
            digest(conversation.messages): conversation.answer for conversation in load_conversations()
        }

    def answer(self, call: ChatCall) -> Answer:
        """The same for the same call, so that a run can be repeated."""
        key = digest(call.messages)
        reasoning_tokens = 0
        if REASONING_MODEL.match(call.model):
            wanted = REASONING_TOKENS_STEP * (1 + int(key[:4], 16) % 6)
            reasoning_tokens = min(wanted, call.output_tokens_max)
        text, text_tokens, cut = fit(
            self._scripts.get(key) or filler(key), call.model, call.output_tokens_max - reasoning_tokens
        )
        return Answer(
            text=text,
            finish_reason="length" if cut else "stop",
            output_tokens=text_tokens + reasoning_tokens,
            reasoning_tokens=reasoning_tokens,
        )


def fit(text: str, model: str, tokens_max: int) -> tuple[str, int, bool]:
    """The text cut to at most `tokens_max` tokens, its token count, and whether anything was cut."""
    tokens = count_text(text, model)
    if tokens <= tokens_max:
        return text, tokens, False
    used = encoding(encoding_name(model))
    pieces = used.encode(text, disallowed_special=())[:tokens_max]
    while pieces:
        # A cut may fall inside a character, and the shorter text may be split into more tokens than it had.
        shorter = used.decode(pieces, errors="ignore")
        tokens = count_text(shorter, model)
        if tokens <= tokens_max:
            return shorter, tokens, True
        del pieces[min(len(pieces) - 1, len(pieces) * tokens_max // tokens) :]
    return "", 0, True


FILLER_WORDS = (
    "a short answer needs a clear question and the plan follows from what we know today so start with one "
    "small step then measure it compare the result with the goal and keep only what helps people read"
)
FILLER_SENTENCES_MIN, FILLER_SENTENCES_MAX = 3, 14


def filler(key: str) -> str:
    """Plausible text of varying length for a conversation without a script; the same for the same key."""
    chance = random.Random(key)  # noqa: S311 - reproducible, not secret
    vocabulary = FILLER_WORDS.split()
    sentences = []
    for _ in range(chance.randint(FILLER_SENTENCES_MIN, FILLER_SENTENCES_MAX)):
        words = chance.choices(vocabulary, k=chance.randint(6, 16))
        sentences.append(" ".join(words).capitalize() + ".")
    return " ".join(sentences)


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
            self._fail(_not_found(self.command, self.path))
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
                raise RefusedError(_not_found(self.command, self.path))
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
        prompt_tokens = count_messages(call.messages, call.model, tools=call.tools)
        if prompt_tokens > CONTEXT_TOKENS_MAX:
            message = f"This model's maximum context length is {CONTEXT_TOKENS_MAX} tokens."
            raise _refused(message, "messages", "context_length_exceeded")
        answer = self.server.model.answer(call)
        cached_tokens = self.server.prompt_cache.cached_tokens(call.model, call.messages)
        usage = _usage(prompt_tokens, cached_tokens, answer, call.choices)
        head = {
            "id": f"chatcmpl-{random.getrandbits(96):024x}",
            "created": int(time.time()),
            "model": call.model,
            "service_tier": "default",
            "system_fingerprint": "fp_tokvigil_demo",
        }
        if call.stream:
            self._stream(call, head, answer, usage)
            return
        choice = {
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        choices = [{"index": index} | choice for index in range(call.choices)]
        self._send(HTTPStatus.OK, {"object": "chat.completion"} | head | {"choices": choices, "usage": usage})

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
            for delta, finish_reason in _deltas(answer):
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


def _refused(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    return RefusedError(Failure(status=400, message=message, param=param, code=code))


def _not_found(method: str, path: str) -> Failure:
    return Failure(status=404, message=f"Invalid URL ({method} {path})")


def _positive(data: Mapping[str, Any], name: str, default: int, value_max: int | None = None) -> int:
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value > (value_max or value):
        raise _refused(f"Invalid value for '{name}'.", name)
    return value


def _usage(prompt_tokens: int, cached_tokens: int, answer: Answer, choices: int) -> dict[str, Any]:
    completion_tokens = answer.output_tokens * choices
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": min(cached_tokens, prompt_tokens), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens * choices,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _deltas(answer: Answer) -> Iterator[tuple[dict[str, str], str | None]]:
    yield {"role": "assistant", "content": ""}, None
    words = re.findall(r"\s*\S+|\s+$", answer.text)
    for at in range(0, len(words), STREAM_WORDS_PER_CHUNK):
        yield {"content": "".join(words[at : at + STREAM_WORDS_PER_CHUNK])}, None
    yield {}, answer.finish_reason


@contextmanager
def start_provider(*, latency_ms: float = 5.0, failure_rate: float = 0.0) -> Iterator[str]:
    """Runs the provider as a child process and yields its base URL, which ends in /v1 as OpenAI's does.

    The child ends with the block, and also if this process dies without ending it: its standard input closes.
    """
    root = Path(__file__).resolve().parents[2]
    search_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tokvigil_site.demo.provider", "--port", "0", "--while-stdin-is-open"]
    process = subprocess.Popen(
        [*command, "--latency-ms", str(latency_ms), "--failure-rate", str(failure_rate)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": search_path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the caller, who ends the calls in flight first
    )
    try:
        yield _read_url(process)
    finally:
        _stop(process)


def _read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    overdue = threading.Timer(START_S_MAX, process.kill)
    overdue.start()
    try:
        url = process.stdout.readline().strip()
    finally:
        overdue.cancel()
    if not url:
        raise RuntimeError("the demo provider did not start; its output says why")
    return url


def _stop(process: subprocess.Popen[str]) -> None:
    with process:  # closes the pipes, waits
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()


def _stop_when_stdin_closes(server: ProviderServer) -> None:
    sys.stdin.read()
    server.shutdown()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A local provider that speaks OpenAI's wire format.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=5.0)
    parser.add_argument("--failure-rate", type=float, default=0.0, help="share of chats that fail, 0 to 1")
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)

    encoding("o200k_base")  # 0.3 s that the first chat would otherwise wait for
    with ProviderServer(
        options.port, latency_ms=options.latency_ms, failure_rate=options.failure_rate
    ) as server:

        def stop(*_: Any) -> None:
            threading.Thread(target=server.shutdown).start()  # shutdown() waits for the loop below

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if options.while_stdin_is_open:
            threading.Thread(target=_stop_when_stdin_closes, args=(server,), daemon=True).start()
        print(server.base_url, flush=True)
        server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
