"""The client for code that blocks: ask before an AI call, call the provider, tell afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from tokvigil import guarding
from tokvigil.base_client import (
    BaseClient,
    CallDetails,
    EvaluateDetails,
    UsageDetails,
    chat_request,
)
from tokvigil.chat import ChatResult, ChatStream
from tokvigil.guarding import Guard, GuardOptions
from tokvigil.models import Decision, Limits, UsageReceipt
from tokvigil.reporting import EXIT_S_MAX, FLUSH_S

P = ParamSpec("P")
R = TypeVar("R")


class TokVigil(BaseClient):
    """A client for one environment, safe to share between threads, and to use in forked children.

    For its arguments see `BaseClient`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def evaluate(self, user_id: str, model: str, **details: Unpack[EvaluateDetails]) -> Decision:
        """Whether this AI call may go out; if so, what it may use is held until its usage is reported.

        Give `input_tokens`, or `input_text` or `messages` to have them counted here; the text itself is not
        sent. A block is an answer, not an exception. Raises `APIStatusError` if TokVigil refuses the call
        itself.
        """
        return self._transport.run(self._evaluate(user_id, model, **details))

    def log_usage(
        self,
        request_id: str,
        user_id: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        **details: Unpack[UsageDetails],
    ) -> UsageReceipt:
        """Report what a call used, and wait for the receipt. Safe to repeat with the same content: counted once.

        Raises if TokVigil could not take it; the event is then the caller's to send again. `track` does not wait.
        """
        steps = self._log_usage(request_id, user_id, model, input_tokens, output_tokens, **details)
        return self._transport.run(steps)

    def release(self, request_id: str) -> bool:
        """Drop the hold of a call that never went out. False if there was no such hold (any more)."""
        return self._transport.run(self._release(request_id))

    def extend(self, request_id: str) -> datetime:
        """Keep the hold of a long call open; returns its new end. Raises `NotFoundError` if it is over.

        `chat`, `guard` and wrapped clients do that by themselves.
        """
        return self._transport.run(self._extend(request_id))

    def limits(
        self,
        user_id: str | None = None,
        *,
        plan: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> Limits:
        """The policies in force and what is used, held and left: for a usage meter. Holds nothing."""
        steps = self._limits(user_id=user_id, plan=plan, feature=feature, model=model)
        return self._transport.run(steps)

    @overload
    def chat(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: Literal[True],
        plan: str | None = ...,
        provider: str | None = ...,
        provider_base_url: str | None = ...,
        provider_api_key: str | None = ...,
        max_output_tokens: int | None = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        run_id: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        **provider_kwargs: Any,
    ) -> ChatStream: ...

    @overload
    def chat(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        plan: str | None = ...,
        provider: str | None = ...,
        provider_base_url: str | None = ...,
        provider_api_key: str | None = ...,
        max_output_tokens: int | None = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        run_id: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        **provider_kwargs: Any,
    ) -> ChatResult: ...

    def chat(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: bool = False,
        **options: Any,
    ) -> ChatResult | ChatStream:
        """Ask TokVigil, call a provider with your own key, report what it used.

        `feature`, `plan`, `run_id` and `metadata` that are None are those of the context around, if there is one.
        Options: `plan`, `provider`, `provider_base_url`, `provider_api_key`, `max_output_tokens`, `tools`, `run_id`,
        `metadata`; all other keywords go to the provider as they are.

        `messages` and `tools` are in OpenAI's form for every provider. `provider` is "openai" (and everything
        compatible), "anthropic" or "google"; left out, it follows from `provider_base_url` or the model's name. Keys
        and addresses default to OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY, GEMINI_API_KEY and so on. Neither
        key, prompt nor answer goes to TokVigil.

        With `stream` the answer comes as a `ChatStream`: iterate over it, inside `with` if you may leave early.

        Raises `AIUsageBlockedError` (the provider was not called), `ProviderError` (its hold was released), and
        `ConfigurationError` for a request that cannot work, before anything is held.
        """
        request, attribution = chat_request(user_id, feature, model, messages, stream=stream, **options)
        if stream:
            return self._chat.stream(request, attribution)
        return self._chat.complete(request, attribution)

    def guard(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        *,
        provider: str | None = None,
        **details: Unpack[CallDetails],
    ) -> Guard:
        """Ask TokVigil before a call that you make yourself, to any provider.

            with tv.guard("user_123", "chat", "claude-haiku-4-5", messages=messages) as call:
                answer = anthropic.messages.create(..., max_tokens=call.max_output_tokens)
                call.record(answer)

        Without a `feature` (None) it is that of the context around, if there is one.

        Raises `AIUsageBlockedError` at once. Should the process die inside, the call is reported as `partial`.
        """
        return self._transport.run(self._guard(user_id, feature, model, provider, **details))

    def guarded(self, **options: Unpack[GuardOptions]) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """A decorator for a function that makes one AI call and returns the provider's answer.

            @tv.guarded(feature="chat", model="gpt-4o-mini", user_id=lambda user, text: user.id)
            def answer(user, text): ...

        An option may be a function of the call's arguments. A parameter named `call` gets the `Guard`, for its
        `max_output_tokens`, or to record what the returned value does not say. Raises `ConfigurationError` for a
        function that is `async def` (use `AsyncTokVigil`) or yields (use `guard` inside it).
        """
        return lambda function: guarding.guarded(function, self.guard, options)

    def flush(self, timeout: float = FLUSH_S) -> int:
        """Send what is pending, for `timeout` seconds at most; returns how many events are left. Does not raise."""
        return self._reporter.flush(timeout)

    def close(self) -> None:
        """Send what is pending, for a few seconds at most, then close the connections. The rest stays in the spool."""
        self._reporter.close(EXIT_S_MAX)
        self._connections.close()
        self._chat.close()
