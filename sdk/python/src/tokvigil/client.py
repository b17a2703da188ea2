"""The client: ask before an AI call, call the provider, tell afterwards."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tokvigil import openai_chat, tokens
from tokvigil.availability import ON_UNAVAILABLE, Asked, Availability, OnUnavailable
from tokvigil.credentials import clean_key, key_name
from tokvigil.errors import (
    AIUsageBlockedError,
    AuthenticationError,
    ConfigurationError,
    MalformedAnswerError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    RateLimitedError,
    TokVigilError,
    TokVigilUnavailableError,
    ValidationError,
)
from tokvigil.guarding import NO_USAGE, Guard
from tokvigil.models import (
    ChatResult,
    Decision,
    Limits,
    Usage,
    UsageEvent,
    UsageReceipt,
    UsageStatus,
)
from tokvigil.open_call import OpenCall
from tokvigil.openai_chat import ChatEndpoint, ChatRequest
from tokvigil.pending import PendingUsage
from tokvigil.retries import RETRIES_MAX, RetryPolicy
from tokvigil.spool import Spool, default_path
from tokvigil.transport import Transport

logger = logging.getLogger("tokvigil")

BATCH_EVENTS_MAX = 500
BATCH_BYTES_MAX = 900_000  # the server takes 1 MiB
# These pass once the control plane is back or the key is mended; any other refusal of an event is for good.
WORTH_KEEPING = (TokVigilUnavailableError, RateLimitedError, AuthenticationError, PermissionDeniedError)


class TokVigil:
    """A client for one environment, safe to share between threads.

    `api_key` and `base_url` default to TOKVIGIL_API_KEY and TOKVIGIL_BASE_URL. `timeout` is in seconds: of an attempt,
    and of an evaluate with all its retries. If the control plane gives no usable answer, `on_unavailable` decides:
    "last_known" repeats its last block for the same user, feature, model and plan and allows all else, "allow" lets
    AI calls go out uncounted until their usage can be reported, "block" stops them.

    `spool` is the file that keeps usage until TokVigil has confirmed it: True for TOKVIGIL_SPOOL or a file in the
    user's state directory, a path, or False to keep it in memory only.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 2.0,
        max_retries: int = 2,
        on_unavailable: OnUnavailable = "last_known",
        spool: bool | str | os.PathLike[str] = True,
    ) -> None:
        api_key = clean_key(api_key or os.environ.get("TOKVIGIL_API_KEY"))
        base_url = base_url or os.environ.get("TOKVIGIL_BASE_URL")
        if not api_key:
            raise ConfigurationError("no API key: pass api_key or set TOKVIGIL_API_KEY")
        if not base_url or not base_url.startswith(("http://", "https://")):
            raise ConfigurationError("no http(s) address: pass base_url or set TOKVIGIL_BASE_URL")
        if on_unavailable not in ON_UNAVAILABLE:
            raise ConfigurationError(f"on_unavailable is one of {', '.join(ON_UNAVAILABLE)}")
        if timeout <= 0 or not 0 <= max_retries <= RETRIES_MAX:
            raise ConfigurationError(f"timeout must be positive, max_retries 0 to {RETRIES_MAX}")
        self.base_url = base_url
        self.on_unavailable: OnUnavailable = on_unavailable
        self._timeout_s = timeout
        self._availability = Availability(on_unavailable)
        self._transport = Transport(
            api_key, base_url, timeout_s=timeout, retry=RetryPolicy(retries_max=max_retries)
        )
        self._chat_endpoint = ChatEndpoint()
        self._pending = _usage_store(spool, f"{base_url.rstrip('/')} {key_name(api_key)}")
        self._flushing = threading.Lock()

    def __repr__(self) -> str:
        return f"TokVigil(base_url={self.base_url!r}, on_unavailable={self.on_unavailable!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def evaluate(
        self,
        user_id: str,
        model: str,
        *,
        feature: str | None = None,
        plan: str | None = None,
        input_tokens: int | None = None,
        input_text: str | None = None,
        messages: Iterable[Mapping[str, Any]] | None = None,
        max_output_tokens: int | None = None,
        request_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> Decision:
        """Whether this AI request may go out; if so, what it may use is held until its usage is reported.

        Give `input_tokens`, or `input_text` or `messages` to have them counted here; the text itself is not
        sent. A block is an answer, not an exception. Raises `APIStatusError` if TokVigil refuses the call
        itself.
        """
        if input_tokens is None and messages is not None:
            input_tokens = tokens.count_messages(messages, model)
        elif input_tokens is None and input_text is not None:
            input_tokens = tokens.count_text(input_text, model)
        request_id = request_id or new_request_id()
        body = {
            "request_id": request_id,
            "user_id": user_id,
            "model": model,
            "feature": feature,
            "plan": plan,
            "input_tokens": input_tokens,
            "max_output_tokens": max_output_tokens,
            "run_id": run_id,
            "metadata": metadata,
            "dry_run": dry_run or None,
            "explain": explain or None,
        }
        asked = Asked(user_id=user_id, feature=feature, model=model, plan=plan)
        try:
            decision = self._ask(_present(body))
        except TokVigilUnavailableError as error:
            logger.warning("request %s: %s; on_unavailable=%s", request_id, error, self.on_unavailable)
            return self._availability.decide(asked, request_id, error)
        except TokVigilError:
            # A refusal is an answer: the control plane is there.
            self._availability.answered()
            raise
        self._availability.answered(asked, decision)
        self._flush_quietly()
        return decision

    def log_usage(
        self,
        request_id: str,
        user_id: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        cached_input_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        feature: str | None = None,
        plan: str | None = None,
        run_id: str | None = None,
        provider: str | None = None,
        status: UsageStatus = "succeeded",
        latency_ms: int | None = None,
        reported_cost_usd: Decimal | str | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> UsageReceipt:
        """Report what a call used. Safe to repeat with the same content: it is counted once.

        Raises if TokVigil could not take it; the event is then the caller's to send again.
        """
        event = UsageEvent(
            request_id=request_id,
            user_id=user_id,
            model=model,
            usage=Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=cached_input_tokens,
                cache_write_tokens=cache_write_tokens,
                reasoning_tokens=reasoning_tokens,
            ),
            status=status,
            feature=feature,
            plan=plan,
            run_id=run_id,
            provider=provider,
            latency_ms=latency_ms,
            reported_cost_usd=None if reported_cost_usd is None else Decimal(reported_cost_usd),
            occurred_at=occurred_at,
            metadata=metadata,
        )
        receipt = self._send(event)
        self._flush_quietly()
        return receipt

    def release(self, request_id: str) -> bool:
        """Drop the hold of a call that never went out. False if there was no such hold (any more)."""
        try:
            self._transport.request("DELETE", f"/v1/reservations/{quote(request_id, safe='')}")
        except NotFoundError:
            return False
        return True

    def extend(self, request_id: str) -> datetime:
        """Keep the hold of a long call open; returns its new end. Raises `NotFoundError` if it is over."""
        answer = self._transport.request("POST", f"/v1/reservations/{quote(request_id, safe='')}/extend")
        try:
            return datetime.fromisoformat(answer["expires_at"])
        except (KeyError, TypeError, ValueError):
            raise MalformedAnswerError("the answer has no expires_at") from None

    def limits(
        self,
        user_id: str | None = None,
        *,
        plan: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> Limits:
        """The policies in force and what is used, held and left: for a usage meter. Holds nothing."""
        params = _present({"user_id": user_id, "plan": plan, "feature": feature, "model": model})
        return Limits.from_wire(self._transport.request("GET", "/v1/limits", params=params))

    def chat(
        self,
        user_id: str,
        feature: str,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        plan: str | None = None,
        provider_base_url: str | None = None,
        provider_api_key: str | None = None,
        max_output_tokens: int | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **provider_kwargs: Any,
    ) -> ChatResult:
        """Ask TokVigil, call an OpenAI-compatible provider with your own key, report what it used.

        `provider_base_url` includes the version path ("https://api.openai.com/v1", the default; or
        OPENAI_BASE_URL); `provider_api_key` defaults to OPENAI_API_KEY. Neither key, prompt nor answer goes
        to TokVigil.

        Raises `AIUsageBlockedError` (the provider was not called) and `ProviderError` (the hold was
        released). Once the provider has answered, the answer is returned even if its usage cannot be
        reported: the report then waits in `pending_usage`.
        """
        request = ChatRequest.build(model, messages, max_output_tokens, provider_kwargs)
        base_url = provider_base_url or os.environ.get("OPENAI_BASE_URL") or openai_chat.DEFAULT_BASE_URL
        provider_api_key = clean_key(provider_api_key or os.environ.get("OPENAI_API_KEY"))
        input_tokens = tokens.count_messages(request.messages, model, tools=request.options.get("tools"))
        call = self._open(
            user_id=user_id,
            model=model,
            input_tokens=input_tokens,
            max_output_tokens=request.output_tokens_max,
            feature=feature,
            plan=plan,
            run_id=run_id,
            provider=openai_chat.provider_name(base_url),
            metadata=metadata,
        )
        try:
            completion = self._chat_endpoint.complete(
                request,
                base_url=base_url,
                api_key=provider_api_key,
                output_tokens_max=call.decision.max_output_tokens,
                input_tokens=input_tokens,
            )
        except ProviderError:
            self._report(call.event("failed", NO_USAGE))
            raise
        except BaseException:
            self._report(call.event("cancelled", NO_USAGE))
            raise
        succeeded = call.event("succeeded", completion.usage)
        receipt, usage_error = self._report(succeeded)
        return ChatResult(
            text=completion.text,
            raw=completion.raw,
            usage=completion.usage,
            decision=call.decision,
            request_id=call.decision.request_id,
            model=completion.model,
            finish_reason=completion.finish_reason,
            latency_ms=succeeded.latency_ms or 0,
            receipt=receipt,
            usage_error=usage_error,
        )

    def guard(
        self,
        user_id: str,
        feature: str,
        model: str,
        *,
        plan: str | None = None,
        input_tokens: int | None = None,
        messages: Iterable[Mapping[str, Any]] | None = None,
        max_output_tokens: int | None = None,
        provider: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Guard:
        """Ask TokVigil before a call that you make yourself, to any provider.

            with tv.guard("user_123", "chat", "claude-haiku-4-5", messages=messages) as call:
                answer = anthropic.messages.create(..., max_tokens=call.max_output_tokens)
                call.record(answer)

        Raises `AIUsageBlockedError` at once. Should the process die inside, the call is reported as `partial`.
        """
        if input_tokens is None:
            input_tokens = 0 if messages is None else tokens.count_messages(messages, model)
        call = self._open(
            user_id=user_id,
            model=model,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            feature=feature,
            plan=plan,
            run_id=run_id,
            provider=provider,
            metadata=metadata,
        )
        return Guard(call, self._report)

    @property
    def pending_usage(self) -> tuple[UsageEvent, ...]:
        """Usage that TokVigil has not confirmed yet, oldest first; with a spool, that of all its processes."""
        return self._pending.oldest()

    def flush(self) -> int:
        """Send what is pending, retries included; returns how many events are left. Does not raise."""
        with self._flushing:
            self._pending.adopt()
            try:
                self._send_pending(retry=True)
            except TokVigilError as error:
                logger.warning("%d usage events stay pending: %s", len(self._pending), error)
        return len(self._pending)

    def close(self) -> None:
        """Flush, then close the connections."""
        left = self.flush()
        if left and isinstance(self._pending, Spool):
            logger.warning("%d usage events are not reported yet and stay in %s", left, self._pending.path)
        elif left:
            logger.error("%d usage events were not reported and are lost with this client", left)
        self._pending.close()
        self._transport.close()
        self._chat_endpoint.close()

    def _open(
        self,
        *,
        user_id: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
        feature: str,
        plan: str | None,
        run_id: str | None,
        provider: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> OpenCall:
        """An allowed call, written down. Raises `AIUsageBlockedError`."""
        # The caller's may change before the report.
        metadata = None if metadata is None else dict(metadata)
        decision = self.evaluate(
            user_id,
            model,
            feature=feature,
            plan=plan,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            run_id=run_id,
            metadata=metadata,
        )
        if not decision.allowed:
            raise AIUsageBlockedError(decision)
        call = OpenCall(
            decision=decision,
            user_id=user_id,
            model=model,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            feature=feature,
            plan=plan,
            run_id=run_id,
            provider=provider,
            metadata=metadata,
        )
        # Should this process die before the answer's usage is known, the call is reported with what is held for it.
        self._pending.hold(call.unknown())
        return call

    def _ask(self, body: Mapping[str, Any]) -> Decision:
        self._availability.admit()
        try:
            answer = self._transport.request("POST", "/v1/evaluate", body=body, within_s=self._timeout_s)
            return Decision.from_wire(answer)
        except TokVigilUnavailableError:
            self._availability.failed()
            raise

    def _send(self, event: UsageEvent) -> UsageReceipt:
        return UsageReceipt.from_wire(self._transport.request("POST", "/v1/usage", body=event.to_wire()))

    def _report(self, event: UsageEvent) -> tuple[UsageReceipt | None, TokVigilError | None]:
        """Write an event down, then send it; no error gets out, because the provider's answer matters more."""
        self._pending.hold(event)
        try:
            receipt = self._send(event)
            self._pending.remove(event.request_id)
            return receipt, None
        except TokVigilError as error:
            if (
                isinstance(error, ValidationError)
                and event.occurred_at
                and "occurred_at" in str(error.errors)
            ):
                # This machine's clock is wrong. Nothing was recorded, so the event may still change.
                logger.warning("usage of request %s: %s; sent without its time", event.request_id, error)
                return self._report(replace(event, occurred_at=None))
            if isinstance(error, WORTH_KEEPING):
                logger.warning("usage of request %s stays pending: %s", event.request_id, error)
                self._keep(event)
            else:
                logger.error("usage of request %s was refused: %s", event.request_id, error)
                self._pending.give_up(event.request_id, str(error))
            return None, error
        except BaseException:
            self._keep(event)
            raise

    def _keep(self, event: UsageEvent) -> None:
        overflowed = self._pending.add(event)
        if overflowed is not None:
            logger.error("usage of request %s is lost: too many reports are pending", overflowed.request_id)

    def _flush_quietly(self) -> None:
        """After a call that worked: one try, no waiting, and not while another thread is at it."""
        if not len(self._pending) or not self._flushing.acquire(blocking=False):
            return
        try:
            self._send_pending(retry=False)
        except TokVigilError as error:
            logger.debug("usage stays pending: %s", error)
        finally:
            self._flushing.release()

    def _send_pending(self, *, retry: bool) -> None:
        """Batch after batch until none is left; an event leaves only once TokVigil has answered for it."""
        while batch := _fitting(self._pending.oldest(BATCH_EVENTS_MAX)):
            answer = self._transport.request("POST", "/v1/usage/batch", body={"events": batch}, retry=retry)
            settled = 0
            for request_id, status, problem in _batch_results(answer):
                if status in ("conflict", "invalid"):
                    logger.error("usage of request %s was refused: %s %s", request_id, status, problem)
                    self._pending.give_up(request_id, f"{status}: {problem}")
                else:
                    self._pending.remove(request_id)
                settled += 1
            if not settled:
                raise MalformedAnswerError("the batch answer names no events")


def new_request_id() -> str:
    """A UUIDv7: unique without coordination, and in order of time, which keeps the server's index compact."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = uuid.uuid4().int & ((1 << 76) - 1)
    value = (milliseconds & ((1 << 48) - 1)) << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def _usage_store(spool: bool | str | os.PathLike[str], destination: str) -> PendingUsage | Spool:
    if spool is False:
        return PendingUsage()
    return Spool(default_path() if spool is True else spool, destination)


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _fitting(events: Iterable[UsageEvent]) -> list[dict[str, Any]]:
    """As many of the events as one batch can carry, at least the first."""
    batch: list[dict[str, Any]] = []
    free_bytes = BATCH_BYTES_MAX
    for event in events:
        body = event.to_wire()
        free_bytes -= len(json.dumps(body)) + 2
        if free_bytes < 0 and batch:
            break
        batch.append(body)
    return batch


def _batch_results(answer: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    results = answer.get("results")
    if not isinstance(results, list):
        raise MalformedAnswerError("the batch answer has no results")
    return [
        (str(result["request_id"]), str(result.get("status")), result.get("error"))
        for result in results
        if isinstance(result, dict) and "request_id" in result
    ]
