"""The client for code that awaits. What it does is what `TokVigil` does; the spool and its sender are the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
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
from tokvigil.chat import AsyncChatStream, ChatResult
from tokvigil.guarding import AsyncGuard, GuardOptions
from tokvigil.models import Decision, Limits, UsageReceipt
from tokvigil.reporting import EXIT_S_MAX, FLUSH_S

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTokVigil(BaseClient):
    """A client for one environment, safe to share between tasks, event loops and threads.

    For its arguments see `BaseClient`.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def evaluate(self, user_id: str, model: str, **details: Unpack[EvaluateDetails]) -> Decision:
        """See `TokVigil.evaluate`."""
        return await self._transport.run_async(self._evaluate(user_id, model, **details))

    async def log_usage(
        self,
        request_id: str,
        user_id: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        **details: Unpack[UsageDetails],
    ) -> UsageReceipt:
        """See `TokVigil.log_usage`."""
        steps = self._log_usage(request_id, user_id, model, input_tokens, output_tokens, **details)
        return await self._transport.run_async(steps)

    async def release(self, request_id: str) -> bool:
        """See `TokVigil.release`."""
        return await self._transport.run_async(self._release(request_id))

    async def extend(self, request_id: str) -> datetime:
        """See `TokVigil.extend`."""
        return await self._transport.run_async(self._extend(request_id))

    async def limits(
        self,
        user_id: str | None = None,
        *,
        plan: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> Limits:
        """See `TokVigil.limits`."""
        steps = self._limits(user_id=user_id, plan=plan, feature=feature, model=model)
        return await self._transport.run_async(steps)

    @overload
    async def chat(
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
    ) -> AsyncChatStream: ...

    @overload
    async def chat(
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

    async def chat(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: bool = False,
        **options: Any,
    ) -> ChatResult | AsyncChatStream:
        """See `TokVigil.chat`; with `stream` it gives an `AsyncChatStream`."""
        request, attribution = chat_request(user_id, feature, model, messages, stream=stream, **options)
        if stream:
            return await self._chat.stream_async(request, attribution)
        return await self._chat.complete_async(request, attribution)

    def guard(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        *,
        provider: str | None = None,
        **details: Unpack[CallDetails],
    ) -> AsyncGuard:
        """`async with tv.guard(...) as call:`; see `TokVigil.guard`."""
        steps = partial(self._guard, user_id, feature, model, provider, **details)
        return AsyncGuard(lambda: self._transport.run_async(steps()))

    def guarded(
        self, **options: Unpack[GuardOptions]
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
        """A decorator for a coroutine function; see `TokVigil.guarded`."""
        return lambda function: guarding.guarded_async(function, self.guard, options)

    async def flush(self, timeout: float = FLUSH_S) -> int:
        """See `TokVigil.flush`."""
        return await asyncio.to_thread(self._reporter.flush, timeout)

    async def close(self) -> None:
        """See `TokVigil.close`."""
        await asyncio.to_thread(self._reporter.close, EXIT_S_MAX)
        await self._connections.close_async()
        await self._chat.close_async()
