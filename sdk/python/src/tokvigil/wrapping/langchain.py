"""Chat models of `langchain-openai`, which hold clients of `openai` and call them in one place."""

from __future__ import annotations

import copy
import sys
from typing import Any

from tokvigil.errors import AIUsageBlockedError
from tokvigil.wrapping import stainless
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.wrapper import Wrapper


def is_one(model: Any) -> bool:
    return any(
        base.__module__.partition(".")[0] == "langchain_openai" and base.__name__ == "BaseChatOpenAI"
        for base in type(model).__mro__
    )


def wrap(model: Any, wrapper: Wrapper) -> Any:
    """A copy of the chat model whose clients are guarded."""
    guarded = copy.copy(model)
    guarded.root_client = stainless.wrap(model.root_client, wrapper, _as_model_error)
    guarded.root_async_client = stainless.wrap(model.root_async_client, wrapper, _as_model_error)
    guarded.client = guarded.root_client.chat.completions
    guarded.async_client = guarded.root_async_client.chat.completions
    return guarded


def _as_model_error(blocked: AIUsageBlockedError, _: Exception) -> Exception:
    """langchain-openai makes an error of its own of every error of openai, and the block would be lost in it."""
    denied = getattr(sys.modules.get("langchain_core.exceptions"), "ModelPermissionDeniedError", None)
    return blocked if denied is None else blocked_as(blocked, denied())
