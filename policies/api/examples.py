"""Worked examples for the OpenAPI document; a test posts them."""

from drf_spectacular.utils import OpenApiExample

from usage.amounts import Amounts

_POLICY = {"id": "0b8f6f0e-3d0a-4f4e-9a35-7f6f1c1d2e3f", "name": "Free plan", "version": 7, "scope": "plan"}
_LIMIT = {
    "policy": "Free plan",
    "metric": "requests",
    "window": "day",
    "per": "user",
    "limit": 50,
    "remaining": 0,
    "resets_at": "2026-11-24T00:00:00Z",
}

EVALUATE_REQUEST = {
    "request_id": "chat-7f3a",
    "user_id": "user_123",
    "plan": "free",
    "feature": "chat",
    "model": "gpt-4o-mini",
    "input_tokens": 374,
    "max_output_tokens": 400,
}
EVALUATE_ALLOWED = {
    "request_id": "chat-7f3a",
    "allowed": True,
    "reason_code": "ALLOWED",
    "reason_class": "allowed",
    "message": "Allowed by policy Free plan.",
    "policy": _POLICY,
    "shadow": None,
    "limit_state": [{**_LIMIT, "used": 48, "held": 1, "remaining": 1, "exceeded": False}],
    "retry_after": None,
    "estimated_cost_usd": "0.0002961",
    "reserved": {**Amounts(requests=1, input_tokens=374, output_tokens=400).counts, "cost_usd": "0.0002961"},
    "expires_at": "2026-11-23T13:10:00Z",
    "max_output_tokens": 400,
    "suggested_model": None,
    "degraded": False,
    "trace": None,
}
EVALUATE_BLOCKED = {
    **EVALUATE_ALLOWED,
    "allowed": False,
    "reason_code": "DAILY_REQUEST_LIMIT_EXCEEDED",
    "reason_class": "exhausted",
    "message": "Daily request limit of 50 reached for user user_123: 50 used, 0 held, 1 needed.",
    "limit_state": [{**_LIMIT, "used": 50, "held": 0, "exceeded": True}],
    "retry_after": 3600,
    "reserved": None,
    "expires_at": None,
    "max_output_tokens": None,
}

EVALUATE = (
    OpenApiExample("request", EVALUATE_REQUEST, summary="May this user make this call?", request_only=True),
    OpenApiExample("allowed", EVALUATE_ALLOWED, summary="It may; this is held for it", response_only=True),
    OpenApiExample(
        "blocked", EVALUATE_BLOCKED, summary="It may not; this is why, and until when", response_only=True
    ),
)
