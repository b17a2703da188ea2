"""What the sync and the async client have in common: everything they do, as steps where it waits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from tokvigil import attribution, checked, tokens, wrapping
from tokvigil.attribution import Attribution
from tokvigil.availability import Availability, OnUnreachable
from tokvigil.calls import Calls
from tokvigil.certificates import Verify
from tokvigil.chat import Chat
from tokvigil.chatting import ChatRequest
from tokvigil.configuration import Configuration
from tokvigil.errors import ConfigurationError, HoldNotFoundError, UnreachableError
from tokvigil.evaluation import Evaluation
from tokvigil.guarding import Guard
from tokvigil.journal import Journal, default_folder
from tokvigil.json_values import present
from tokvigil.links import Links
from tokvigil.message_reading import read_messages
from tokvigil.models import Decision, Limits, Receipt, UsageEvent, checked_quantities, checked_tier
from tokvigil.question import Question, Report
from tokvigil.reporting import Reporter
from tokvigil.retries import RetryPolicy
from tokvigil.steps import Steps
from tokvigil.telemetry import CallSpan
from tokvigil.transport import Sender, Transport, hold_path
from tokvigil.wrapping import standalone
from tokvigil.wrapping.standalone import Library
from tokvigil.wrapping.wrapper import Wrapper

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class BaseClient:
    """Use `TokVigil` or `AsyncTokVigil`.

    `api_key` and `base_url` default to TOKVIGIL_API_KEY and TOKVIGIL_BASE_URL. `timeout` is in seconds: of a request,
    and of an evaluate with all its retries.

    `on_unreachable` decides while the control plane gives no usable answer: "last_known" repeats the last block of the
    same user, feature, model and plan and allows every other call, "allow" allows all calls, "block" blocks all. Calls
    that were allowed are reported later. A wrong port looks like an outage: `python -m tokvigil doctor` finds it.

    `journal` is the folder that keeps usage until TokVigil has confirmed it: True for TOKVIGIL_JOURNAL or a folder in
    the user's state directory, a path, or False to keep usage in memory only.

    `proxy` is the address of a proxy on the way to TokVigil; None: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
    `verify` is a file or directory of certificates to trust, an `ssl.SSLContext`, or False to trust any.

    `on_decision` is called with each decision, in the thread or task that asked.

    In an application that traces with OpenTelemetry, each AI call is a span.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 2.0,
        max_retries: int = 2,
        on_unreachable: OnUnreachable = "last_known",
        journal: bool | str | os.PathLike[str] = True,
        proxy: str | None = None,
        verify: Verify = True,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        configuration = Configuration.read(
            api_key, base_url, timeout=timeout, max_retries=max_retries, on_unreachable=on_unreachable
        )
        self.base_url = configuration.base_url
        self.on_unreachable: OnUnreachable = configuration.on_unreachable
        self._links = self._linked(configuration.base_url, proxy, verify)
        self._transport = Transport(
            configuration.api_key,
            configuration.base_url,
            timeout_s=configuration.timeout_s,
            retry=RetryPolicy(retries_max=configuration.retries_max),
            sender=self._links,
        )
        self._reporter = Reporter(_journal(journal, configuration.destination), self._transport)
        self._availability = Availability(configuration.on_unreachable, on_return=self._reporter.send_now)
        self._evaluation = Evaluation(
            self._transport,
            self._availability,
            self._reporter,
            timeout_s=configuration.timeout_s,
            on_decision=on_decision,
        )
        self._calls = Calls(self._evaluation, self._reporter)
        self._chat = Chat(Wrapper(calls=self._calls, transport=self._transport))

    def _linked(self, base_url: str, proxy: str | None, verify: Verify) -> Sender:
        return Links(base_url, proxy=proxy, verify=verify)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, on_unreachable={self.on_unreachable!r})"

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
        """A client of the same class as `client`, whose AI calls ask TokVigil first. `client` stays as it is.

        Takes clients of `openai`, `anthropic`, `google-genai` and `groq`, sync and async, and models of LangChain and
        crewai. Every request of an AI call, in whatever style, is evaluated once and reported once. A block is an
        `AIUsageBlockedError` that is also the provider SDK's own status error; the provider is not called.

        The user comes from the `context` around a call, else from these arguments. If neither names one, the call
        raises `MissingAttributionError`. Raises `ConfigurationError` for clients of other SDKs.
        """
        return wrapping.wrap(client, self._wrapper(user_id, feature, plan, run_id, metadata))

    @overload
    def http_client(self, *, library: Literal["httpx2"] = ..., **options: Any) -> httpx2.Client: ...

    @overload
    def http_client(self, *, library: Literal["httpx"], **options: Any) -> Any: ...

    def http_client(
        self,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        plan: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        library: Library = "httpx2",
        raise_blocks: bool = False,
        **options: Any,
    ) -> Any:
        """A new guarded `Client` of httpx2, or of httpx, for an SDK or a framework that takes one.

        `options` are those of the library's own `Client`. Attribution is as in `wrap`.

        A blocked call is answered with a 403, which the SDKs of providers do not try again. The error that they make
        of it leads to the block: `AIUsageBlockedError.find(error)`. With `raise_blocks` the client raises
        `AIUsageBlockedError` by itself: for code that sends its requests without an SDK.

        Close it like any client. Raises `ConfigurationError` if the library is not installed.
        """
        wrapper = self._wrapper(user_id, feature, plan, run_id, metadata)
        return standalone.http_client(wrapper, "Client", library, options, raise_blocks=raise_blocks)

    @overload
    def async_http_client(
        self, *, library: Literal["httpx2"] = ..., **options: Any
    ) -> httpx2.AsyncClient: ...

    @overload
    def async_http_client(self, *, library: Literal["httpx"], **options: Any) -> Any: ...

    def async_http_client(
        self,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        plan: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        library: Library = "httpx2",
        raise_blocks: bool = False,
        **options: Any,
    ) -> Any:
        """A new guarded `AsyncClient`; see `http_client`."""
        wrapper = self._wrapper(user_id, feature, plan, run_id, metadata)
        return standalone.http_client(wrapper, "AsyncClient", library, options, raise_blocks=raise_blocks)

    def _wrapper(
        self,
        user_id: str | None,
        feature: str | None,
        plan: str | None,
        run_id: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Wrapper:
        default = Attribution(user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata)
        return Wrapper(calls=self._calls, transport=self._transport, default=default)

    def report(self, event: UsageEvent) -> None:
        """Report usage in the background: written down now, sent at once, counted once.

        Raises nothing but `ConfigurationError`, for an event that cannot be one.
        """
        for report in Report.all_of(event):
            self._reporter.report(report)

    def pending(self) -> int:
        """How many reports of this client TokVigil has not confirmed yet."""
        return len(self._reporter.journal)

    def _evaluate(self, **asked: Any) -> Steps[Decision]:
        question = _question(**asked)
        span = CallSpan(question, "evaluate")
        try:
            decision = yield from self._evaluation.evaluate(question)
            span.decided(decision)
        finally:
            span.end()
        return decision

    def _guard(self, **asked: Any) -> Steps[Guard]:
        call = yield from self._calls.open(_question(**asked))
        assert call.decision is not None  # it is open
        return Guard(call, call.decision)

    def _report_now(self, event: UsageEvent) -> Steps[Receipt]:
        for beside in Report.all_of(event)[:-1]:
            self._reporter.report(beside)
        receipt: Receipt = yield from self._transport.ask(
            "POST", "/v1/usage", body=event.to_wire(), read=Receipt.from_wire
        )
        return receipt

    def _release(self, request_id: str) -> Steps[bool]:
        try:
            yield from self._transport.ask("DELETE", hold_path(request_id))
        except HoldNotFoundError:
            return False
        return True

    def _extend(self, request_id: str) -> Steps[datetime]:
        answer = yield from self._transport.ask("POST", f"{hold_path(request_id)}/extend")
        return _read_expiry(answer)

    def _limits(self, model: str | None, **said: Any) -> Steps[Limits]:
        whose = Attribution(**said).within(attribution.around())
        params = present(
            {
                "user_id": whose.user_id,
                "plan": whose.plan,
                "feature": whose.feature,
                "model": model,
                "run_id": whose.run_id,
            }
        )
        answer = yield from self._transport.ask("GET", "/v1/limits", params=params)
        return Limits.from_wire(answer)

    def _chat_request(
        self,
        *,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        stream: bool,
        user_id: str | None = None,
        feature: str | None = None,
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
        """What `chat` sends, and for whom. Raises `ConfigurationError` for what cannot work."""
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
        return request, Attribution(
            user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata
        )


def _question(
    *,
    model: str,
    user_id: str | None,
    feature: str | None,
    plan: str | None,
    provider: str | None,
    input_tokens: int | None,
    input_text: str | None,
    messages: Iterable[Any] | None,
    max_output_tokens: int | None,
    service_tier: str | None,
    region: str | None,
    quantities: Mapping[str, int] | None,
    run_id: str | None,
    metadata: Mapping[str, Any] | None,
    request_id: str | None = None,
    dry_run: bool = False,
    explain: bool = False,
) -> Question:
    """What `evaluate` and `guard` ask: as their arguments say, else as the context around says."""
    said = Attribution(user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata)
    named: dict[str, Any] = {"request_id": request_id, "is_named_by_caller": True} if request_id else {}
    return Question.of(
        attribution.with_user(said.within(attribution.around())),
        checked.model(model),
        provider=checked.name("provider", provider),
        input_tokens=_count_input(model, input_tokens=input_tokens, input_text=input_text, messages=messages),
        max_output_tokens=_count("max_output_tokens", max_output_tokens),
        service_tier=checked_tier(service_tier),
        region=checked.name("region", region),
        quantities=None if quantities is None else checked_quantities(quantities),
        dry_run=dry_run,
        explain=explain,
        **named,
    )


def _count_input(
    model: str, *, input_tokens: int | None, input_text: str | None, messages: Iterable[Any] | None
) -> int | None:
    """As said, or counted here. Raises `ConfigurationError` if more than one of them is said."""
    said = present({"input_tokens": input_tokens, "input_text": input_text, "messages": messages})
    if len(said) > 1:
        raise ConfigurationError(f"{' and '.join(said)} say the same: pass one of them")
    if messages is not None:
        return tokens.count_reading(read_messages(messages), model)
    if input_text is not None:
        return tokens.count_text(input_text, model)
    return _count("input_tokens", input_tokens)


def _count(field: str, said: int | None) -> int | None:
    return None if said is None else checked.count(field, said)


def _read_expiry(answer: Mapping[str, Any]) -> datetime:
    """The new end of an extended hold."""
    try:
        return datetime.fromisoformat(answer["expires_at"])
    except (KeyError, TypeError, ValueError):
        raise UnreachableError("the answer has no expires_at", reason="answer") from None


def _journal(journal: bool | str | os.PathLike[str], destination: str) -> Journal:
    folder = default_folder() if journal is True else journal
    return Journal(None if folder is False else folder, destination)
