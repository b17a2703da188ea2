"""One call to an OpenAI-compatible chat endpoint, made with the caller's own key.

Nothing here knows TokVigil's key or address: the provider never sees them, and TokVigil never sees the
provider's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tokvigil.errors import ConfigurationError, ProviderError
from tokvigil.models import Usage
from tokvigil.retries import parse_retry_after
from tokvigil.tokens import count_text
from tokvigil.usage_reading import read_usage
from tokvigil.version import __version__

if TYPE_CHECKING:
    import httpx2

DEFAULT_BASE_URL = "https://api.openai.com/v1"
PROVIDERS_BY_HOST = {"api.openai.com": "openai"}
TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 5.0
ERROR_BODY_CHARS_MAX = 2_000

CAP_NAMES = ("max_completion_tokens", "max_tokens")
# These refuse `max_tokens`; many compatible servers know nothing else.
WANTS_MAX_COMPLETION_TOKENS = re.compile(r"(?:^|/)(?:o\d|gpt-[5-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What goes to the provider, and the output cap that the caller asked for, in whichever of three ways."""

    model: str
    messages: list[Mapping[str, Any]]
    options: dict[str, Any]
    cap_name: str
    cap: int | None

    @classmethod
    def build(
        cls,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        max_output_tokens: int | None,
        options: Mapping[str, Any],
    ) -> ChatRequest:
        """Raises `ConfigurationError` for what cannot work, before anything is held or spent."""
        if options.get("stream"):
            raise ConfigurationError("chat() does not stream")
        named = {name: options[name] for name in CAP_NAMES if options.get(name) is not None}
        if len(named) + (max_output_tokens is not None) > 1:
            raise ConfigurationError("give one of max_output_tokens, max_completion_tokens, max_tokens")
        default_name = CAP_NAMES[0] if WANTS_MAX_COMPLETION_TOKENS.search(model) else CAP_NAMES[1]
        cap_name, cap = next(iter(named.items()), (default_name, max_output_tokens))
        request = cls(
            model=model,
            messages=list(messages),
            options={name: value for name, value in options.items() if name not in CAP_NAMES},
            cap_name=cap_name,
            cap=cap,
        )
        try:
            request.body(cap)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the request cannot be written as JSON: {error}") from None
        return request

    @property
    def choices(self) -> int:
        """How many answers are asked for. Each may be as long as the provider's cap, which is per answer."""
        n = self.options.get("n")
        return n if isinstance(n, int) and n > 1 else 1

    @property
    def output_tokens_max(self) -> int | None:
        """The most this call may produce, all answers together; None if the caller set no cap."""
        return None if self.cap is None else self.cap * self.choices

    def body(self, output_tokens_max: int | None) -> bytes:
        """The JSON to post. The cap is shared out among the answers, and never above what was asked for."""
        fields: dict[str, Any] = {"model": self.model, "messages": self.messages} | self.options
        cap = self.cap
        if output_tokens_max is not None:
            share = max(1, output_tokens_max // self.choices)
            cap = share if cap is None else min(cap, share)
        if cap is not None:
            fields[self.cap_name] = cap
        return json.dumps(fields, ensure_ascii=True, allow_nan=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletion:
    text: str
    finish_reason: str | None
    model: str
    usage: Usage
    raw: Mapping[str, Any]


class ChatEndpoint:
    """Posts chat requests. Safe to share between threads."""

    def __init__(self) -> None:
        import httpx2  # here, so that `import tokvigil` stays light

        self._http = httpx2.Client(
            timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            headers={"User-Agent": f"tokvigil-python/{__version__}", "Content-Type": "application/json"},
        )

    def complete(
        self,
        request: ChatRequest,
        *,
        base_url: str,
        api_key: str | None,
        output_tokens_max: int | None,
        input_tokens: int,
    ) -> ChatCompletion:
        """The provider's answer. One attempt; any failure is a `ProviderError`."""
        import httpx2

        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        url = base_url.rstrip("/") + "/chat/completions"
        try:
            response = self._http.post(url, content=request.body(output_tokens_max), headers=headers)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise ProviderError(f"the provider cannot be reached: {error!r}") from error
        answer = _read_object(response)
        if not response.is_success or "error" in answer or not isinstance(answer.get("choices"), list):
            raise _error_from(response, answer)
        return ChatCompletion(
            text=_text(answer["choices"]),
            finish_reason=_first(answer["choices"]).get("finish_reason"),
            model=str(answer.get("model") or request.model),
            usage=read_usage(answer) or _estimated_usage(answer["choices"], request, input_tokens),
            raw=answer,
        )

    def close(self) -> None:
        self._http.close()


def provider_name(base_url: str) -> str | None:
    """The provider behind an address, if it is a known one."""
    return PROVIDERS_BY_HOST.get(urlsplit(base_url).hostname or "")


def _read_object(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _error_from(response: httpx2.Response, answer: Mapping[str, Any]) -> ProviderError:
    problem = answer.get("error")
    fields = problem if isinstance(problem, dict) else {"message": problem}
    no_answer = "no chat completion" if response.is_success else response.reason_phrase
    return ProviderError(
        f"the provider answered {response.status_code}: {fields.get('message') or no_answer}",
        status_code=response.status_code,
        code=None if fields.get("code") is None else str(fields["code"]),
        body=answer or response.text[:ERROR_BODY_CHARS_MAX],
        request_id=response.headers.get("x-request-id"),
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )


def _first(choices: list[Any]) -> Mapping[str, Any]:
    return choices[0] if choices and isinstance(choices[0], dict) else {}


def _text(choices: list[Any]) -> str:
    message = _first(choices).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _estimated_usage(choices: list[Any], request: ChatRequest, input_tokens: int) -> Usage:
    output_tokens = sum(count_text(_text([choice]), request.model) for choice in choices)
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, source="estimated")
