"""Models of LangChain, of the packages of all vendors, and of crewai: each holds clients of a provider's SDK.

A model's clients stand in fields, private attributes and cached properties whose names end in "client". If one of them
is not known here, the model is refused: its calls would go out unseen.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from tokvigil.blocked import AIUsageBlockedError
from tokvigil.errors import ConfigurationError, TokVigilError
from tokvigil.wrapping import genai, stainless
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.http import is_http_client
from tokvigil.wrapping.wrapper import Wrapper

LANGCHAIN = frozenset({("langchain_core", "BaseLanguageModel"), ("langchain_core", "Embeddings")})
CREWAI = ("crewai", "BaseLLM")
# What a caller gave the model to make its clients of.
GIVEN = "http_"
# LangChain makes a model anew to change a field of it. A model of this package keeps its clients then.
KEEPS_CLIENTS = ("langchain_openai", "BaseChatOpenAI")


def is_one(model: Any) -> bool:
    kinds = _kinds(model)
    return CREWAI in kinds or not kinds.isdisjoint(LANGCHAIN)


def wrap(model: Any, wrapper: Wrapper) -> Any:
    """A copy of the model whose clients are guarded.

    Raises `ConfigurationError` if it holds no client, or one that cannot be guarded.
    """
    held = {name: getattr(model, name) for name in _names_of_clients(type(model))}
    # A model of LangChain whose key is fetched by a coroutine has no sync client, and never will. One of crewai without
    # a key makes its clients when it is first used.
    if not any(held.values()) or (CREWAI in _kinds(model) and not all(held.values())):
        raise ConfigurationError(
            f"this {type(model).__name__} holds no client that can be guarded; if it lacks its API key, give it one"
        )
    guarded = copy.copy(model)
    for name, client in held.items():
        if client is not None:
            private = guarded.__pydantic_private__ or {}
            (private if name in private else guarded.__dict__)[name] = _guarded(client, model, wrapper)
    if KEEPS_CLIENTS not in _kinds(model):
        guarded.__dict__["configurable_fields"] = _refuse_to_configure
    return guarded


def _kinds(model: Any) -> set[tuple[str, str]]:
    return {(base.__module__.partition(".")[0], base.__name__) for base in type(model).__mro__}


def _names_of_clients(kind: Any) -> Iterator[str]:
    cached = (
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if isinstance(value, cached_property)
    )
    for name in dict.fromkeys((*kind.model_fields, *kind.__private_attributes__, *cached)):
        if name.endswith("client") and not name.startswith(GIVEN):
            yield name


def _guarded(client: Any, model: Any, wrapper: Wrapper) -> Any:
    # What a block is raised as; None: as the provider's SDK raises it.
    raised_as = None if CREWAI in _kinds(model) else _as_model_error
    if stainless.is_one(client):
        return stainless.wrap(client, wrapper, raised_as)
    if genai.is_one(client):
        return genai.wrap(client, wrapper, raised_as)
    if is_http_client(client):
        return wrapper.guarded_http(client, _as_model_error)
    # Some models hold only the part of a client that they call, such as `client.chat.completions`.
    whole = getattr(client, "_client", None)
    if stainless.is_one(whole):
        return type(client)(stainless.wrap(whole, wrapper, raised_as))
    raise ConfigurationError(
        f"this {type(model).__name__} calls through a {type(client).__module__}."
        f"{type(client).__qualname__}, which cannot be guarded: put tv.guard(...) around its calls instead"
    )


def _as_model_error(error: TokVigilError, made: Exception | None = None) -> Exception:
    """LangChain's models make errors of their own of every error of an SDK, and the block would be lost in it.

    `made` is the SDK's own.
    """
    if not isinstance(error, AIUsageBlockedError):
        return error
    denied = getattr(sys.modules.get("langchain_core.exceptions"), "ModelPermissionDeniedError", None)
    return error if denied is None else blocked_as(error, denied())


def _refuse_to_configure(**_: Any) -> Any:
    raise ConfigurationError(
        "a wrapped model of this kind cannot have configurable fields: LangChain would make it anew with a client that"
        " is not guarded. Make one model for each configuration, and wrap each"
    )
