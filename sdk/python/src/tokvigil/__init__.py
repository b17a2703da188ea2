"""Ask TokVigil before each AI call, tell it afterwards what the call used.

from tokvigil import TokVigil, AIUsageBlockedError

with TokVigil() as tv:  # TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL
    messages = [{"role": "user", "content": "Hello"}]
    answer = tv.chat(model="gpt-4o-mini", messages=messages, user_id="user_123", feature="chat")
"""

from tokvigil.async_client import AsyncTokVigil
from tokvigil.attribution import carry_context, context
from tokvigil.availability import OnUnreachable
from tokvigil.blocked import AIUsageBlockedError
from tokvigil.chat import AsyncChatStream, ChatResult, ChatStream
from tokvigil.client import TokVigil
from tokvigil.decisions import decision_of
from tokvigil.errors import (
    ConfigurationError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidKeyError,
    InvalidRequestError,
    MissingAttributionError,
    MissingScopeError,
    ProviderError,
    RefusedError,
    TokVigilError,
    TooManyRequestsError,
    UnreachableError,
)
from tokvigil.estimating import Estimate, estimate
from tokvigil.guarding import AsyncGuard, Guard
from tokvigil.models import (
    Decision,
    Limits,
    LimitState,
    PolicyRef,
    Receipt,
    Usage,
    UsageEvent,
    UsageStatus,
)
from tokvigil.reasons import ReasonClass, ReasonCode
from tokvigil.tokens import count_tokens
from tokvigil.usage_reading import read_usage
from tokvigil.version import __version__

__all__ = [
    "AIUsageBlockedError",
    "AsyncChatStream",
    "AsyncGuard",
    "AsyncTokVigil",
    "ChatResult",
    "ChatStream",
    "ConfigurationError",
    "Decision",
    "Estimate",
    "Guard",
    "HoldNotFoundError",
    "IdempotencyConflictError",
    "InvalidKeyError",
    "InvalidRequestError",
    "LimitState",
    "Limits",
    "MissingAttributionError",
    "MissingScopeError",
    "OnUnreachable",
    "PolicyRef",
    "ProviderError",
    "ReasonClass",
    "ReasonCode",
    "Receipt",
    "RefusedError",
    "TokVigil",
    "TokVigilError",
    "TooManyRequestsError",
    "UnreachableError",
    "Usage",
    "UsageEvent",
    "UsageStatus",
    "__version__",
    "carry_context",
    "context",
    "count_tokens",
    "decision_of",
    "estimate",
    "read_usage",
]
