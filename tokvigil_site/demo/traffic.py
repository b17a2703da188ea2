"""The demo's conversations, sent as an application would: through the SDK, many users at once, each user in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from tokvigil import (
    AIUsageBlockedError,
    ChatResult,
    Decision,
    TokVigil,
    TokVigilError,
    UnreachableError,
)

from tokvigil_site.demo.conversations import Conversation, load_conversations
from tokvigil_site.demo.parallel import for_each
from tokvigil_site.demo.stage import BLOCKED_USER, KNOWN_PLANS

PROVIDER_KEY = "sk-demo"
ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A conversation and what came of it: an answer, a block, or a failure that should not be."""

    conversation: Conversation
    result: ChatResult | None = None
    blocked: Decision | None = None
    failure: str = ""

    @property
    def decision(self) -> Decision | None:
        return self.blocked if self.result is None else self.result.decision


def conversations() -> tuple[Conversation, ...]:
    """All of the demo's, and one of a user who is blocked."""
    scripted = load_conversations()
    return *scripted, replace(scripted[0], id="mallory-tries", user=BLOCKED_USER, plan="free")


def send(
    client: TokVigil,
    provider_url: str,
    sent: Iterable[Conversation],
    *,
    threads: int,
    step: Callable[[], None],
) -> list[Exchange]:
    """In the order of the conversations."""
    exchanges: dict[str, Exchange] = {}

    def send_all_of_user(own: list[Conversation]) -> None:
        for conversation in own:
            exchanges[conversation.id] = _send(client, provider_url, conversation)
            step()

    ordered = list(sent)
    for_each(_by_user(ordered), send_all_of_user, threads=threads)
    return [exchanges[conversation.id] for conversation in ordered]


def drop(client: TokVigil, decision: Decision) -> None:
    """After a degraded decision nobody knows whether something was held; the call never went out."""
    with suppress(UnreachableError):
        client.release(decision.request_id)


def _by_user(sent: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """The longest first, so that no thread is left with one at the end."""
    by_user = groupby(sorted(sent, key=_user), key=_user)
    yield from sorted((list(own) for _, own in by_user), key=len, reverse=True)


def _user(conversation: Conversation) -> str:
    return conversation.user


def _send(client: TokVigil, provider_url: str, conversation: Conversation) -> Exchange:
    for _ in range(ATTEMPTS_MAX):
        try:
            result = client.chat(
                user_id=conversation.user,
                feature=conversation.feature,
                model=conversation.model,
                messages=conversation.messages,
                plan=None if conversation.user in KNOWN_PLANS else conversation.plan,
                max_output_tokens=conversation.max_output_tokens,
                provider_base_url=provider_url,
                provider_api_key=PROVIDER_KEY,
            )
        except AIUsageBlockedError as error:
            blocked = Exchange(conversation=conversation, blocked=error.decision)
            if not error.decision.degraded:
                return blocked
            drop(client, error.decision)
        except TokVigilError as error:
            return Exchange(conversation=conversation, failure=f"{type(error).__name__}: {error}")
        else:
            return Exchange(conversation=conversation, result=result)
    return blocked
