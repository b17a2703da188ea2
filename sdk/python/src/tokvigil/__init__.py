"""Ask TokVigil before each AI call, tell it afterwards what the call used.

from tokvigil import TokVigil, AIUsageBlockedError

with TokVigil() as tv:  # TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL
    answer = tv.chat("user_123", "chat", "gpt-4o-mini", [{"role": "user", "content": "Hello"}])
"""

from tokvigil.async_client import AsyncTokVigil
from tokvigil.attribution import context
from tokvigil.availability import OnUnavailable
from tokvigil.chat import AsyncChatStream, ChatResult, ChatStream
from tokvigil.client import TokVigil
from tokvigil.errors import (
    AIUsageBlockedError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    MalformedAnswerError,
    MissingAttributionError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    RateLimitedError,
    TokVigilError,
    TokVigilUnavailableError,
    ValidationError,
)
from tokvigil.estimating import Estimate, estimate
from tokvigil.guarding import AsyncGuard, Guard
from tokvigil.models import (
    Decision,
    Limits,
    LimitState,
    PolicyRef,
    Usage,
    UsageEvent,
    UsageReceipt,
    UsageStatus,
)
from tokvigil.tokens import count_messages, count_text, set_token_factor
from tokvigil.usage_reading import read_usage
from tokvigil.version import __version__

__all__ = [
    "AIUsageBlockedError",
    "APIStatusError",
    "AsyncChatStream",
    "AsyncGuard",
    "AsyncTokVigil",
    "AuthenticationError",
    "ChatResult",
    "ChatStream",
    "ConfigurationError",
    "ConflictError",
    "Decision",
    "Estimate",
    "Guard",
    "LimitState",
    "Limits",
    "MalformedAnswerError",
    "MissingAttributionError",
    "NotFoundError",
    "OnUnavailable",
    "PermissionDeniedError",
    "PolicyRef",
    "ProviderError",
    "RateLimitedError",
    "TokVigil",
    "TokVigilError",
    "TokVigilUnavailableError",
    "Usage",
    "UsageEvent",
    "UsageReceipt",
    "UsageStatus",
    "ValidationError",
    "__version__",
    "context",
    "count_messages",
    "count_text",
    "estimate",
    "read_usage",
    "set_token_factor",
]
