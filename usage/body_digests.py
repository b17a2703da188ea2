"""What a request's body says, for its digest: how a repeated request is known, over a deploy too.

A body sent again must have the digest that it had the first time, also when the version between knows fields more. So
a field that has its default is left out, as if it had not been sent. The fields of the first version are the exception:
that one wrote them always, defaults too, and so does every later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec


def said(body: msgspec.Struct, first_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the first version, in its order and with its defaults; then the others that have no default.

    A body is one whose struct leaves defaults out (`omit_defaults`).
    """
    defaults = _defaults(type(body))
    given: dict[str, Any] = msgspec.to_builtins(body)
    # msgspec leaves a default out only if it is the same object.
    others = {name: value for name, value in given.items() if name in first_fields or value != defaults[name]}
    return {**first_fields, **others}


@cache
def _defaults(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(body)}
