"""The client for code that blocks: ask before an AI call, call the provider, report afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from tokvigil import guarding
from tokvigil.base_client import BaseClient
from tokvigil.chat import ChatResult, ChatStream
from tokvigil.guarding import Guard, GuardOptions
from tokvigil.models import Decision, Limits, Receipt, UsageEvent
from tokvigil.reporting import EXIT_S_MAX, FLUSH_S

P = ParamSpec("P")
R = TypeVar("R")


class TokVigil(BaseClient):
    """A client for one environment, safe to share between threads, and to use in forked children.

    For its arguments see `BaseClient`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def evaluate(
        self,
        *,
        model: str,
        user_id: str | None = None,
        feature: str | None = None,
        plan: str | None = None,
        provider: str | None = None,
        input_tokens: int | None = None,
        input_text: str | None = None,
        messages: Iterable[Any] | None = None,
        max_output_tokens: int | None = None,
        service_tier: str | None = None,
        region: str | None = None,
        quantities: Mapping[str, int] | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> Decision:
        """Whether this AI call may go out; if so, what it may use is held until its usage is reported.

        A block is an answer here, not an exception. User, feature, plan, run and metadata that are None come from the
        `context` around. Pass one of `input_tokens`, `input_text` and `messages`: texts are counted here and are not
        sent. `max_output_tokens` is the most that the call may produce, all answers together; `provider` is the one
        that will be called, as the price book names it, `service_tier` and `region` what it is asked for. `quantities`
        are what else the call will use at most, by the names of `Usage.quantities`: it uses nothing that they do not
        name, so {} is a call of text alone. None: nobody knows, and the hold is at the dearest rate. `dry_run` decides
        and holds nothing, `explain` fills the decision's `trace`.

        Raises `RefusedError` if TokVigil refuses the question itself, and `ConfigurationError` for an argument that
        cannot be.
        """
        return self._transport.run(
            self._evaluate(
                model=model,
                user_id=user_id,
                feature=feature,
                plan=plan,
                provider=provider,
                input_tokens=input_tokens,
                input_text=input_text,
                messages=messages,
                max_output_tokens=max_output_tokens,
                service_tier=service_tier,
                region=region,
                quantities=quantities,
                run_id=run_id,
                metadata=metadata,
                request_id=request_id,
                dry_run=dry_run,
                explain=explain,
            )
        )

    def guard(
        self,
        *,
        model: str,
        user_id: str | None = None,
        feature: str | None = None,
        plan: str | None = None,
        provider: str | None = None,
        input_tokens: int | None = None,
        input_text: str | None = None,
        messages: Iterable[Any] | None = None,
        max_output_tokens: int | None = None,
        service_tier: str | None = None,
        region: str | None = None,
        quantities: Mapping[str, int] | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Guard:
        """Ask TokVigil before a call that you make yourself, to any provider. For the arguments see `evaluate`.

            with tv.guard(model="claude-haiku-4-5", user_id="user_123", messages=messages) as call:
                answer = anthropic.messages.create(..., max_tokens=call.max_output_tokens)
                call.record(answer)

        Raises `AIUsageBlockedError` at once.
        """
        return self._transport.run(
            self._guard(
                model=model,
                user_id=user_id,
                feature=feature,
                plan=plan,
                provider=provider,
                input_tokens=input_tokens,
                input_text=input_text,
                messages=messages,
                max_output_tokens=max_output_tokens,
                service_tier=service_tier,
                region=region,
                quantities=quantities,
                run_id=run_id,
                metadata=metadata,
            )
        )

    def guarded(self, **options: Unpack[GuardOptions]) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """A decorator for a function that makes one AI call and returns the provider's answer.

            @tv.guarded(feature="chat", model="gpt-4o-mini", user_id=lambda user, text: user.id)
            def answer(user, text): ...

        An option may be a function of the call's arguments. `pass_guard` names a parameter that gets the `Guard`, for
        its `max_output_tokens`, or to record what the returned value does not say. Raises `ConfigurationError` for a
        function that is `async def` (use `AsyncTokVigil`) or yields (use `guard` inside it).
        """
        return lambda function: guarding.guarded(function, self.guard, options)

    @overload
    def chat(
        self,
        *,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        stream: Literal[True],
        user_id: str | None = ...,
        feature: str | None = ...,
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
        *,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        stream: Literal[False] = False,
        user_id: str | None = ...,
        feature: str | None = ...,
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
        *,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        stream: bool = False,
        **options: Any,
    ) -> ChatResult | ChatStream:
        """Ask TokVigil, call a provider with your own key, report what it used.

        Options: `user_id`, `feature`, `plan`, `run_id` and `metadata`, which come from the `context` around if they are
        None; `provider`, `provider_base_url`, `provider_api_key`, `max_output_tokens`, `tools`. All other keywords go
        to the provider as they are.

        `messages` and `tools` are in OpenAI's form for every provider. `provider` is "openai" (and everything
        compatible), "anthropic" or "google"; left out, it follows from `provider_base_url` or the model's name. Keys
        and addresses default to OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY, GEMINI_API_KEY and so on. Neither
        key, prompt nor answer goes to TokVigil.

        With `stream` the answer comes as a `ChatStream`: iterate over it, inside `with` if you may leave early.

        Raises `AIUsageBlockedError` (the provider was not called), `ProviderError`, and `ConfigurationError` for a
        request that cannot work, before anything is held.
        """
        request, attribution = self._chat_request(model=model, messages=messages, stream=stream, **options)
        if stream:
            return self._chat.stream(request, attribution)
        return self._chat.complete(request, attribution)

    def report_now(self, event: UsageEvent) -> Receipt:
        """Report what a call used, and wait for the receipt. Safe to repeat with the same content: counted once.

        Raises if TokVigil could not take it; the event is then the caller's to send again. `report` does not wait.
        """
        return self._transport.run(self._report_now(event))

    def release(self, request_id: str) -> bool:
        """Drop the hold of a call that never went out. False if there was no such hold (any more)."""
        return self._transport.run(self._release(request_id))

    def extend(self, request_id: str) -> datetime:
        """Keep the hold of a long call open; returns its new end. Raises `HoldNotFoundError` if it is over.

        `chat`, `guard` and wrapped clients do that by themselves.
        """
        return self._transport.run(self._extend(request_id))

    def limits(
        self,
        *,
        user_id: str | None = None,
        plan: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> Limits:
        """The policies in force and what is used, held and left: for a usage meter. Holds nothing.

        User, feature and plan that are None come from the `context` around, and so does the run.
        """
        return self._transport.run(self._limits(user_id=user_id, plan=plan, feature=feature, model=model))

    def flush(self, timeout: float = FLUSH_S) -> int:
        """Send what is pending, for `timeout` seconds at most; returns how many reports are left. Does not raise."""
        return self._reporter.flush(timeout)

    def close(self) -> None:
        """Send what is pending, for a few seconds at most, then close the connections. The rest stays in the
        journal."""
        self._reporter.close(EXIT_S_MAX)
        self._links.close()
        self._chat.close()
