"""`with tv.guard(...)`: ask before a call that the caller makes in any way, report after it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tokvigil.errors import ConfigurationError
from tokvigil.models import Decision, Usage, UsageEvent, UsageStatus
from tokvigil.open_call import OpenCall
from tokvigil.usage_reading import read_usage

logger = logging.getLogger("tokvigil")
NO_USAGE = Usage(input_tokens=0, output_tokens=0)


class Guard:
    """An allowed call. Record what it used; leaving without that gives its hold back.

    `max_output_tokens` is the cap to pass to the provider.
    """

    def __init__(self, call: OpenCall, report: Callable[[UsageEvent], object]) -> None:
        self._call = call
        self._report = report
        self._recorded: UsageEvent | None = None
        # An answer came, and nobody could say what it used.
        self._answered = False

    @property
    def decision(self) -> Decision:
        return self._call.decision

    @property
    def request_id(self) -> str:
        return self._call.decision.request_id

    @property
    def max_output_tokens(self) -> int | None:
        return self._call.decision.max_output_tokens

    def record(self, used: Any, *, status: UsageStatus = "succeeded") -> Usage:
        """Report what the call used: a `Usage`, or the provider's answer. The first record counts.

        Raises `ConfigurationError` for an answer that says no usage: pass a `Usage` then. If nobody does, the call is
        reported as `partial` with what it may use.
        """
        usage = used if isinstance(used, Usage) else read_usage(used)
        if usage is None:
            self._answered = True
            raise ConfigurationError(
                "the answer says no usage: record(Usage(input_tokens=..., output_tokens=...))"
            )
        if self._recorded is not None:
            logger.warning("request %s: its usage is recorded already", self.request_id)
            return self._recorded.usage
        self._recorded = self._call.event(status, usage)
        self._report(self._recorded)
        return usage

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorded is not None:
            return
        if self._answered:
            logger.warning(
                "request %s: what it used is unknown; what it may use is reported", self.request_id
            )
            self._report(self._call.unknown())
            return
        if error is None:
            logger.warning("request %s: no usage was recorded; its hold is given back", self.request_id)
        cancelled = error is None or not isinstance(error, Exception)
        self._report(self._call.event("cancelled" if cancelled else "failed", NO_USAGE))
