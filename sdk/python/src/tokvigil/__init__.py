"""Ask TokVigil before each AI call, tell it afterwards what the call used.

from tokvigil import TokVigil, AIUsageBlockedError

with TokVigil() as tv:  # TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL
    answer = tv.chat("user_123", "chat", "gpt-4o-mini", [{"role": "user", "content": "Hello"}])
"""

from tokvigil.availability import OnUnavailable
from tokvigil.client import TokVigil
from tokvigil.errors import (
    AIUsageBlockedError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    MalformedAnswerError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    RateLimitedError,
    TokVigilError,
    TokVigilUnavailableError,
    ValidationError,
)
from tokvigil.estimating import Estimate, estimate
from tokvigil.guarding import Guard
from tokvigil.models import (
    ChatResult,
    Decision,
    Limits,
    LimitState,
    PolicyRef,
    Usage,
    UsageEvent,
    UsageReceipt,
    UsageStatus,
)
from tokvigil.tokens import count_messages, count_text
from tokvigil.usage_reading import read_usage
from tokvigil.version import __version__

__all__ = [
    "AIUsageBlockedError",
    "APIStatusError",
    "AuthenticationError",
    "ChatResult",
    "ConfigurationError",
    "ConflictError",
    "Decision",
    "Estimate",
    "Guard",
    "LimitState",
    "Limits",
    "MalformedAnswerError",
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
    "count_messages",
    "count_text",
    "estimate",
    "read_usage",
]
