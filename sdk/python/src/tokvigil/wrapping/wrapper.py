"""What the wrappers of all provider SDKs need: guarded HTTP clients for one TokVigil client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokvigil.attribution import NOBODY, Attribution
from tokvigil.calls import Calls
from tokvigil.transport import Transport
from tokvigil.wrapping.gate import Gate
from tokvigil.wrapping.http import RaisedAs, guarded_client, guarded_transport, unguarded


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """`default` is whose the calls are where no context says otherwise."""

    calls: Calls
    transport: Transport
    default: Attribution = NOBODY

    def guarded_http(self, inner: Any, raised_as: RaisedAs | None = None) -> Any:
        """A client as `inner` is one, guarded by this wrapper alone."""
        inner = unguarded(inner)
        return guarded_client(inner, self.guarded_transport(inner, raised_as))

    def guarded_transport(self, inner: Any, raised_as: RaisedAs | None = None) -> Any:
        """See `http.guarded_transport`."""
        gate = Gate(self.calls, self.default)
        return guarded_transport(inner, gate, self.transport.run, self.transport.run_async, raised_as)
