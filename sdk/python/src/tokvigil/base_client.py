"""What the sync and the async client have in common: all that they do, in steps where it waits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from tokvigil import attribution, checked, estimating, telemetry, token_encodings, tokens, wrapping
from tokvigil.attribution import Attribution
from tokvigil.availability import Availability, OnUnavailable
from tokvigil.chat import Chat
from tokvigil.chatting import ChatRequest
from tokvigil.configuration import Configuration
from tokvigil.connections import Connections
from tokvigil.errors import ConfigurationError, MalformedAnswerError, NotFoundError
from tokvigil.evaluation import Evaluation, Question
from tokvigil.guarding import Guard
from tokvigil.models import PARTS, Decision, Limits, Usage, UsageEvent, UsageReceipt, UsageStatus
from tokvigil.open_call import Desk
from tokvigil.pending import PendingUsage
from tokvigil.reporting import Reporter
from tokvigil.retries import RetryPolicy
from tokvigil.spool import Spool
from tokvigil.spool_file import default_path
from tokvigil.steps import Steps
from tokvigil.transport import Transport, hold_path
from tokvigil.wrapping.wrapper import Wrapper

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class BaseClient:
    """Use `TokVigil` or `AsyncTokVigil`.

    `api_key` and `base_url` default to TOKVIGIL_API_KEY and TOKVIGIL_BASE_URL. `timeout` is in seconds: of an attempt,
    and of an evaluate with all its retries. If the control plane gives no usable answer, `on_unavailable` decides:
    "last_known" repeats its last block for the same user, feature, model and plan and allows all else, "allow" lets
    AI calls go out uncounted until their usage can be reported, "block" stops them.

    `spool` is the file that keeps usage until TokVigil has confirmed it: True for TOKVIGIL_SPOOL or a file in the
    user's state directory, a path, or False to keep it in memory only.

    In an application that traces with OpenTelemetry, decisions and usage are attributes of its current span;
    `telemetry_user_id` adds whose call it is.

    `http_client` and `async_http_client` talk to TokVigil instead of own ones: for a proxy, or certificates. Reports
    go out through `http_client`.
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
        telemetry_user_id: bool = False,
        http_client: httpx2.Client | None = None,
        async_http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        configuration = Configuration.read(
            api_key, base_url, timeout=timeout, max_retries=max_retries, on_unavailable=on_unavailable
        )
        self.base_url = configuration.base_url
        self.on_unavailable: OnUnavailable = configuration.on_unavailable
        self._connections = Connections(http_client, async_http_client)
        self._transport = Transport(
            configuration.api_key,
            configuration.base_url,
            timeout_s=configuration.timeout_s,
            retry=RetryPolicy(retries_max=configuration.retries_max),
            connections=self._connections,
        )
        self._reporter = Reporter(_usage_store(spool, configuration.destination), self._transport)
        self._availability = Availability(configuration.on_unavailable, on_return=self._reporter.send_now)
        self._evaluation = Evaluation(
            self._transport,
            self._availability,
            self._reporter,
            timeout_s=configuration.timeout_s,
            telemetry_user_id=telemetry_user_id,
        )
        self._desk = Desk(self._evaluation, self._reporter)
        self._chat = Chat(Wrapper(desk=self._desk, transport=self._transport))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, on_unavailable={self.on_unavailable!r})"

    @property
    def pending_usage(self) -> tuple[UsageEvent, ...]:
        """Usage that TokVigil has not confirmed yet, oldest first; with a spool, that of all its processes."""
        return self._reporter.store.oldest()

    # It holds for all clients of the process; `tokvigil.context` is the same.
    context = staticmethod(attribution.context)

    def wrap(
        self,
        client: T,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        plan: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> T:
        """The same client of `openai`, `anthropic`, `google-genai` or `langchain-openai`, whose AI calls ask first.

        Every AI call it makes, in whatever style, sync or async, is evaluated once and reported once. A block is an
        `AIUsageBlockedError` that is also the provider SDK's own status error; the provider is not called. Whose a
        call is says the `context` around it, else what is named here; nobody: `MissingAttributionError`.

        The client given stays as it is. Raises `ConfigurationError` for clients of other SDKs.
        """
        # A third of a second that the first call, perhaps in an event loop, need not wait for.
        token_encodings.encoding(tokens.DEFAULT_ENCODING)
        default = Attribution(user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata)
        return wrapping.wrap(client, Wrapper(desk=self._desk, transport=self._transport, default=default))

    def track(self, event: UsageEvent) -> None:
        """Report usage in the background: written down now, sent at once, counted once. Does not raise."""
        self._reporter.report(event)
        telemetry.note_usage(telemetry.current_span(), event)

    estimate = staticmethod(estimating.estimate)

    def _evaluate(self, user_id: str, model: str, **details: Unpack[EvaluateDetails]) -> Steps[Decision]:
        return (yield from self._evaluation.evaluate(question(user_id, model, **details)))

    def _guard(
        self,
        user_id: str,
        feature: str | None,
        model: str,
        provider: str | None,
        **details: Unpack[CallDetails],
    ) -> Steps[Guard]:
        asked = question(user_id, model, feature=feature, **details)
        return Guard((yield from self._desk.open(asked, checked.name("provider", provider))))

    def _log_usage(
        self,
        request_id: str,
        user_id: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        **details: Unpack[UsageDetails],
    ) -> Steps[UsageReceipt]:
        event = usage_event(request_id, user_id, model, input_tokens, output_tokens, **details)
        telemetry.note_usage(telemetry.current_span(), event)
        answer = yield from self._transport.ask("POST", "/v1/usage", body=event.to_wire())
        return UsageReceipt.from_wire(answer)

    def _release(self, request_id: str) -> Steps[bool]:
        try:
            yield from self._transport.ask("DELETE", hold_path(request_id))
        except NotFoundError:
            return False
        return True

    def _extend(self, request_id: str) -> Steps[datetime]:
        answer = yield from self._transport.ask("POST", f"{hold_path(request_id)}/extend")
        return _read_expiry(answer)

    def _limits(self, **params: str | None) -> Steps[Limits]:
        answer = yield from self._transport.ask("GET", "/v1/limits", params=_present(params))
        return Limits.from_wire(answer)


class UsageDetails(TypedDict, total=False):
    """What a usage report may say besides its ids and totals; see `Usage` and `UsageEvent`. Feature, plan, run and
    metadata that are not said are those of the context around."""

    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    feature: str | None
    plan: str | None
    run_id: str | None
    provider: str | None
    status: UsageStatus
    latency_ms: int | None
    reported_cost_usd: Decimal | str | None
    occurred_at: datetime | None
    metadata: Mapping[str, Any] | None


class CallDetails(TypedDict, total=False):
    """What an AI call may say of itself before it goes out. Of `input_tokens`, `input_text` and `messages` one: texts
    are counted here and go no further. `max_output_tokens` is the most it may produce, all answers together. Plan, run
    and metadata that are not said are those of the context around."""

    plan: str | None
    input_tokens: int | None
    input_text: str | None
    messages: Iterable[Any] | None
    max_output_tokens: int | None
    run_id: str | None
    metadata: Mapping[str, Any] | None


class EvaluateDetails(CallDetails, total=False):
    """`provider` is who will be called, whose price counts; `dry_run` decides and holds nothing, `explain` fills the
    decision's `trace`."""

    feature: str | None
    request_id: str | None
    provider: str | None
    dry_run: bool
    explain: bool


def question(
    user_id: str,
    model: str,
    *,
    feature: str | None = None,
    plan: str | None = None,
    input_tokens: int | None = None,
    input_text: str | None = None,
    messages: Iterable[Any] | None = None,
    max_output_tokens: int | None = None,
    request_id: str | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    provider: str | None = None,
    dry_run: bool = False,
    explain: bool = False,
) -> Question:
    """What `evaluate` and `guard` ask: as said, else as the context around says."""
    whose = _attribution(user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata)
    asked = Question.of(
        whose,
        checked.model(model),
        input_tokens=_count_input(model, input_tokens=input_tokens, input_text=input_text, messages=messages),
        max_output_tokens=_count("max_output_tokens", max_output_tokens),
    )
    asked = replace(asked, provider=checked.name("provider", provider), dry_run=dry_run, explain=explain)
    return replace(asked, request_id=request_id, is_named_by_caller=True) if request_id else asked


def usage_event(
    request_id: str,
    user_id: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    *,
    feature: str | None = None,
    plan: str | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    **details: Any,
) -> UsageEvent:
    """What `log_usage` reports: as said, else as the context around says."""
    whose = _attribution(user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata)
    parts = {name: details.pop(name) for name in PARTS if name in details}
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, **parts)
    return UsageEvent(request_id=request_id, model=model, usage=usage, **asdict(whose), **details)


def _attribution(user_id: str, **said: Any) -> Attribution:
    return Attribution(user_id=checked.user_id(user_id), **said).within(attribution.around())


def _count_input(
    model: str, *, input_tokens: int | None, input_text: str | None, messages: Iterable[Any] | None
) -> int | None:
    """As said, or counted here. Raises `ConfigurationError` if more than one of them is said."""
    said = _present({"input_tokens": input_tokens, "input_text": input_text, "messages": messages})
    if len(said) > 1:
        raise ConfigurationError(f"{' and '.join(said)} say the same: pass one of them")
    if messages is not None:
        return tokens.count_messages(messages, model)
    if input_text is not None:
        return tokens.count_text(input_text, model)
    return _count("input_tokens", input_tokens)


def _count(field: str, said: int | None) -> int | None:
    return None if said is None else checked.count(field, said)


def chat_request(
    user_id: str,
    feature: str | None,
    model: str,
    messages: Iterable[Mapping[str, Any]],
    *,
    stream: bool,
    plan: str | None = None,
    provider: str | None = None,
    provider_base_url: str | None = None,
    provider_api_key: str | None = None,
    max_output_tokens: int | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    **provider_kwargs: Any,
) -> tuple[ChatRequest, Attribution]:
    """What `chat` sends, and whose it is. Raises `ConfigurationError` for what cannot work."""
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
    return request, Attribution(user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata)


def _read_expiry(answer: Mapping[str, Any]) -> datetime:
    """The new end of an extended hold."""
    try:
        return datetime.fromisoformat(answer["expires_at"])
    except (KeyError, TypeError, ValueError):
        raise MalformedAnswerError("the answer has no expires_at") from None


def _usage_store(spool: bool | str | os.PathLike[str], destination: str) -> PendingUsage | Spool:
    path = default_path() if spool is True else spool
    return PendingUsage() if path is False or path is None else Spool(path, destination)


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What was said."""
    return {name: value for name, value in fields.items() if value is not None}
