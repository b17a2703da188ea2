"""The real clients, over a control plane that is in this process."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import httpx2

from tokvigil.async_client import AsyncTokVigil
from tokvigil.availability import OnUnreachable
from tokvigil.base_client import BaseClient
from tokvigil.chat import Chat
from tokvigil.client import TokVigil
from tokvigil.connections import Connections
from tokvigil.json_values import present
from tokvigil.models import Decision, UsageEvent
from tokvigil.question import Question
from tokvigil.reporting import EXIT_S_MAX
from tokvigil.testing.control_plane import ControlPlane
from tokvigil.testing.script import Block
from tokvigil.transport import Sender
from tokvigil.wrapping.wrapper import Wrapper

API_KEY = "tv_env_fake_fake"
BASE_URL = "http://tokvigil.invalid"
Provider = Callable[[httpx2.Request], httpx2.Response]


class _Fake(BaseClient):
    """`provider` answers `chat` in the provider's place: it takes and gives an HTTP request and its answer. Without
    one `chat` raises `ProviderError`. Wrapped clients send as they always do, through their own HTTP client."""

    def __init__(
        self,
        *,
        on_unreachable: OnUnreachable = "last_known",
        provider: Provider | None = None,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        self._plane = ControlPlane()
        super().__init__(
            api_key=API_KEY,
            base_url=BASE_URL,
            max_retries=0,
            on_unreachable=on_unreachable,
            journal=False,
            on_decision=on_decision,
        )
        self.provider = provider
        self._chat = Chat(
            Wrapper(calls=self._calls, transport=self._transport),
            Connections(transport=httpx2.MockTransport(self._provided)),
        )

    def _linked(self, *_: object) -> Sender:
        return self._plane

    def allow(
        self, *, user_id: str | None = None, feature: str | None = None, model: str | None = None
    ) -> None:
        """From now on such calls are allowed: all of them, or those of a user, a feature, a model."""
        self.up()
        self._plane.blocks.append((_about(user_id, feature, model), None))

    def block(
        self,
        reason_code: str = "DAILY_REQUEST_LIMIT_EXCEEDED",
        *,
        message: str | None = None,
        retry_after: int | None = None,
        limit: int | Decimal | None = None,
        suggested_model: str | None = None,
        user_id: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> None:
        """From now on such calls are blocked: all of them, or those of a user, a feature, a model.

        What is not said is as TokVigil would say it for that reason. `limit` is in USD for a budget. Raises
        `ConfigurationError` for a reason code that TokVigil has not.
        """
        block = Block(reason_code, message, retry_after, limit, suggested_model)
        self.up()
        self._plane.blocks.append((_about(user_id, feature, model), block))

    def cap(
        self,
        max_output_tokens: int,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        model: str | None = None,
    ) -> None:
        """From now on such calls are told to produce no more than that."""
        self._plane.caps.append((_about(user_id, feature, model), max_output_tokens))

    def down(self) -> None:
        """TokVigil cannot be reached, until `up`, `allow` or `block`: `on_unreachable` decides."""
        self._plane.is_down = True

    def up(self) -> None:
        """It can be reached again, and decides as before."""
        self._plane.is_down = False
        self._availability.answered()

    def reset(self) -> None:
        """As at the beginning: everything is allowed, nothing was asked or reported."""
        self.up()
        self._reporter.flush(EXIT_S_MAX)
        self._plane.reset()
        self._availability.forget()

    @property
    def evaluated(self) -> list[Question]:
        """The calls that TokVigil was asked about, oldest first."""
        return list(self._plane.evaluated.values())

    @property
    def reported(self) -> list[UsageEvent]:
        """The usage that TokVigil was told of, oldest first: all of it, unless it is down. Waits for what is still on
        its way. What an event's usage was read from is not told: `usage.source` is always "provider"."""
        self._settle()
        return list(self._plane.reported.values())

    @property
    def held(self) -> list[Question]:
        """Calls that were allowed and whose usage is not reported: those under way, and those that a test lost."""
        self._settle()
        return list(self._plane.held.values())

    @property
    def charged_usd(self) -> Decimal:
        """What the reported usage costs by list price. A model without a price costs nothing here."""
        self._settle()
        return self._plane.charged_usd

    def _settle(self) -> None:
        if not self._plane.is_down:
            self._reporter.flush(EXIT_S_MAX)

    def _let_go(self) -> None:
        self._reporter.close(0.0 if self._plane.is_down else EXIT_S_MAX)

    def _provided(self, request: httpx2.Request) -> httpx2.Response:
        if self.provider is None:
            raise httpx2.ConnectError(
                f"{type(self).__name__} has no `provider` that answers", request=request
            )
        return self.provider(request)


class FakeTokVigil(_Fake, TokVigil):
    """A `TokVigil` whose control plane is in this process. See `tokvigil.testing`."""

    def close(self) -> None:
        self._let_go()


class AsyncFakeTokVigil(_Fake, AsyncTokVigil):
    """An `AsyncTokVigil` whose control plane is in this process. See `tokvigil.testing`."""

    async def close(self) -> None:
        self._let_go()


def _about(user_id: str | None, feature: str | None, model: str | None) -> dict[str, str]:
    return present({"user_id": user_id, "feature": feature, "model": model})
