"""The client for code that awaits. What it does is what `TokVigil` does; the spool and its sender are the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload
from urllib.parse import quote

from tokvigil import guarding, telemetry
from tokvigil.attribution import Attribution
from tokvigil.base_client import (
    BaseClient,
    CallDetails,
    EvaluateDetails,
    UsageDetails,
    present,
    question,
    read_expiry,
    usage_event,
)
from tokvigil.chat import AsyncChatStream, ChatResult
from tokvigil.chatting import ChatRequest
from tokvigil.errors import NotFoundError
from tokvigil.guarding import AsyncGuard, Guard, GuardOptions
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
        asked = question(user_id, model, **details).named()
        return await self._transport.run_async(self._evaluation.evaluate(asked))

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
        event = usage_event(request_id, user_id, model, input_tokens, output_tokens, **details)
        telemetry.note_usage(telemetry.current_span(), event)
        answer = await self._transport.request_async("POST", "/v1/usage", body=event.to_wire())
        return UsageReceipt.from_wire(answer)

    async def release(self, request_id: str) -> bool:
        """See `TokVigil.release`."""
        try:
            await self._transport.request_async("DELETE", f"/v1/reservations/{quote(request_id, safe='')}")
        except NotFoundError:
            return False
        return True

    async def extend(self, request_id: str) -> datetime:
        """See `TokVigil.extend`."""
        path = f"/v1/reservations/{quote(request_id, safe='')}/extend"
        return read_expiry(await self._transport.request_async("POST", path))

    async def limits(
        self,
        user_id: str | None = None,
        *,
        plan: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> Limits:
        """See `TokVigil.limits`."""
        params = present({"user_id": user_id, "plan": plan, "feature": feature, "model": model})
        return Limits.from_wire(await self._transport.request_async("GET", "/v1/limits", params=params))

    @overload
    async def chat(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: Literal[True],
        **options: Any,
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
        **options: Any,
    ) -> ChatResult: ...

    async def chat(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: bool = False,
        plan: str | None = None,
        provider: str | None = None,
        provider_base_url: str | None = None,
        provider_api_key: str | None = None,
        max_output_tokens: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **provider_kwargs: Any,
    ) -> ChatResult | AsyncChatStream:
        """See `TokVigil.chat`; with `stream` it gives an `AsyncChatStream`."""
        request = ChatRequest.build(
            provider=provider,
            model=model,
            messages=messages,
            max_output_tokens=max_output_tokens,
            tools=tools,
            stream=stream,
            options=provider_kwargs,
            base_url=provider_base_url,
            api_key=provider_api_key,
        )
        attribution = Attribution(
            user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata
        )
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

        async def opening() -> Guard:
            asked = question(user_id, model, feature=feature, **details)
            return Guard(await self._transport.run_async(self._desk.open(asked, provider)))

        return AsyncGuard(opening)

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
