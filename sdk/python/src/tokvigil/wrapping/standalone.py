"""`tv.http_client()`: a guarded HTTP client of its own, for whatever takes one and has no client that `wrap` knows."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from tokvigil.errors import ConfigurationError, TokVigilError
from tokvigil.wrapping.http import LIBRARIES
from tokvigil.wrapping.wrapper import Wrapper

Library = Literal["httpx2", "httpx"]
Kind = Literal["Client", "AsyncClient"]


def http_client(
    wrapper: Wrapper, kind: Kind, library: Library, options: Mapping[str, Any], *, raise_blocks: bool
) -> Any:
    """A `Client` or `AsyncClient` of the library, made with these options, whose AI calls pass the guard.

    Raises `ConfigurationError` for a library that is not known here, or not installed.
    """
    if library not in LIBRARIES:
        raise ConfigurationError(f'library must be "httpx2" or "httpx", not {library!r}')
    try:
        module = import_module(library)
    except ImportError as error:
        raise ConfigurationError(f"{library} is not installed: pip install {library}") from error
    inner = getattr(module, kind)(**options)
    return wrapper.guarded_http(inner, _itself if raise_blocks else None)


def _itself(error: TokVigilError) -> Exception:
    return error
