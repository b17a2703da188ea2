"""`tv.wrap(client)`: a provider SDK's own client, guarded where its HTTP requests leave it."""

from __future__ import annotations

from typing import TypeVar

from tokvigil.errors import ConfigurationError
from tokvigil.wrapping import framework_models, genai, stainless
from tokvigil.wrapping.wrapper import Wrapper

T = TypeVar("T")
SDKS = (stainless, genai, framework_models)


def wrap(client: T, wrapper: Wrapper) -> T:
    """The same type back. Raises `ConfigurationError` for a client of an SDK that is not known here."""
    for sdk in SDKS:
        if sdk.is_one(client):
            return sdk.wrap(client, wrapper)  # type: ignore[no-any-return]
    if isinstance(client, type):
        raise ConfigurationError(
            f"wrap takes a client, and {client.__name__} is its class: wrap({client.__name__}())"
        )
    raise ConfigurationError(
        f"wrap takes clients of openai, anthropic, google-genai and groq, and models of LangChain and crewai; this is a"
        f" {type(client).__module__}.{type(client).__qualname__}: give it tv.http_client() if it takes one, or put"
        " tv.guard(...) around its calls"
    )
