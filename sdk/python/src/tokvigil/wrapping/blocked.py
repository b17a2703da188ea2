"""A block as the error of two worlds: TokVigil's, and the status error of the SDK that the call was made with."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokvigil.blocked import AIUsageBlockedError


def blocked_as(blocked: AIUsageBlockedError, status_error: Exception) -> AIUsageBlockedError:
    """The block, of a class that `except` finds under `AIUsageBlockedError` and under the status error's class."""
    made_by: Any = type(status_error)
    both = _class_of_both(made_by)
    error: AIUsageBlockedError = both.__new__(both, *blocked.args)
    error.__dict__.update(status_error.__dict__)
    error.__dict__.update(blocked.__dict__)
    return error


@cache
def _class_of_both(status_error: Any) -> Any:
    def reduce(error: AIUsageBlockedError) -> tuple[type, tuple[Any, ...]]:
        """A process that unpickles it may not have the provider's SDK."""
        return AIUsageBlockedError, (error.decision,)

    # Task queues look the class up by its module and name.
    own = {"__reduce__": reduce, "__module__": AIUsageBlockedError.__module__}
    return type(AIUsageBlockedError.__name__, (AIUsageBlockedError, status_error), own)
