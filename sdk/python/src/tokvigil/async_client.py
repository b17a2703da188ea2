"""The client for code that awaits. It does what `TokVigil` does; journal and sender are the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from tokvigil import event_loops, guarding
from tokvigil.base_client import BaseClient
from tokvigil.chat import AsyncChatStream, ChatResult
from tokvigil.guarding import AsyncGuard, GuardOptions
from tokvigil.models import Decision, Limits, Receipt, UsageEvent
from tokvigil.reporting import EXIT_S_MAX, FLUSH_S

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTokVigil(BaseClient):
    """A client for one environment, safe to share between tasks, event loops and threads. For asyncio only.

    For its arguments see `BaseClient`.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def evaluate(
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
        """See `TokVigil.evaluate`."""
        return await self._transport.run_async(
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
    ) -> AsyncGuard:
        """`async with tv.guard(...) as call:`; see `TokVigil.guard`."""
        steps = partial(
            self._guard,
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
        return AsyncGuard(lambda: self._transport.run_async(steps()))

    def guarded(
        self, **options: Unpack[GuardOptions]
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
        """A decorator for a coroutine function; see `TokVigil.guarded`."""
        return lambda function: guarding.guarded_async(function, self.guard, options)

    @overload
    async def chat(
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
    ) -> AsyncChatStream: ...

    @overload
    async def chat(
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

    async def chat(
        self,
        *,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        stream: bool = False,
        **options: Any,
    ) -> ChatResult | AsyncChatStream:
        """See `TokVigil.chat`; with `stream` it gives an `AsyncChatStream`."""
        request, attribution = self._chat_request(model=model, messages=messages, stream=stream, **options)
        if stream:
            return await self._chat.stream_async(request, attribution)
        return await self._chat.complete_async(request, attribution)

    async def report_now(self, event: UsageEvent) -> Receipt:
        """See `TokVigil.report_now`."""
        return await self._transport.run_async(self._report_now(event))

    async def release(self, request_id: str) -> bool:
        """See `TokVigil.release`."""
        return await self._transport.run_async(self._release(request_id))

    async def extend(self, request_id: str) -> datetime:
        """See `TokVigil.extend`."""
        return await self._transport.run_async(self._extend(request_id))

    async def limits(
        self,
        *,
        user_id: str | None = None,
        plan: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> Limits:
        """See `TokVigil.limits`."""
        return await self._transport.run_async(
            self._limits(user_id=user_id, plan=plan, feature=feature, model=model)
        )

    async def flush(self, timeout: float = FLUSH_S) -> int:
        """See `TokVigil.flush`."""
        return await event_loops.waiting.run(partial(self._reporter.flush, timeout))

    async def close(self) -> None:
        """See `TokVigil.close`."""
        await event_loops.waiting.run(partial(self._reporter.close, EXIT_S_MAX))
        await self._links.close_async()
        await self._chat.close_async()
