"""Models of `langchain-openai`, which hold clients of `openai` and call them in one place."""

from __future__ import annotations

import copy
import sys
from typing import Any

from tokvigil.errors import AIUsageBlockedError
from tokvigil.wrapping import stainless
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.wrapper import Wrapper

CHAT_MODEL = "BaseChatOpenAI"
# Other models have only the part of a client that they call.
PARTS = {"OpenAIEmbeddings": "embeddings", "BaseOpenAI": "completions"}


def is_one(model: Any) -> bool:
    return _kind(model) is not None


def wrap(model: Any, wrapper: Wrapper) -> Any:
    """A copy of the model whose clients are guarded."""
    guarded = copy.copy(model)
    kind = _kind(model)
    if kind == CHAT_MODEL:
        guarded.root_client = _guarded(model.root_client, wrapper)
        guarded.root_async_client = _guarded(model.root_async_client, wrapper)
        guarded.client = guarded.root_client and guarded.root_client.chat.completions
        guarded.async_client = guarded.root_async_client and guarded.root_async_client.chat.completions
    else:
        part = PARTS[kind or ""]
        guarded.client = model.client and getattr(_guarded(model.client._client, wrapper), part)
        guarded.async_client = model.async_client and getattr(
            _guarded(model.async_client._client, wrapper), part
        )
    return guarded


def _kind(model: Any) -> str | None:
    for base in type(model).__mro__:
        if base.__module__.partition(".")[0] == "langchain_openai" and base.__name__ in (CHAT_MODEL, *PARTS):
            return base.__name__
    return None


def _guarded(client: Any, wrapper: Wrapper) -> Any:
    """None stays None: a model whose key is fetched by a coroutine has no sync client."""
    return None if client is None else stainless.wrap(client, wrapper, _as_model_error)


def _as_model_error(blocked: AIUsageBlockedError, _: Exception) -> Exception:
    """langchain-openai makes an error of its own of every error of openai, and the block would be lost in it."""
    denied = getattr(sys.modules.get("langchain_core.exceptions"), "ModelPermissionDeniedError", None)
    return blocked if denied is None else blocked_as(blocked, denied())
