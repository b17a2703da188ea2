"""Worked examples for the OpenAPI document; a test posts them."""

from drf_spectacular.utils import OpenApiExample

USAGE_REPORT = {
    "request_id": "chat-7f3a",
    "user_id": "user_123",
    "model": "gpt-4o-mini",
    "feature": "chat",
    "input_tokens": 374,
    "output_tokens": 44,
    "cached_input_tokens": 128,
    "latency_ms": 812,
}
USAGE_RECEIPT = {
    "request_id": "chat-7f3a",
    "duplicate": False,
    "cost_usd": "0.0000729",
    "priced": True,
    "unpriced": [],
    "limit_state": [
        {
            "policy": "Free plan",
            "metric": "requests",
            "window": "day",
            "per": "user",
            "limit": 50,
            "used": 1,
            "held": 0,
            "remaining": 49,
            "resets_at": "2026-11-24T00:00:00Z",
            "exceeded": False,
        }
    ],
}

RECORD_USAGE = (
    OpenApiExample("report", USAGE_REPORT, summary="A call that went through", request_only=True),
    OpenApiExample(
        "recorded", USAGE_RECEIPT, summary="Recorded and charged", response_only=True, status_codes=["201"]
    ),
    OpenApiExample(
        "duplicate",
        {**USAGE_RECEIPT, "duplicate": True, "limit_state": []},
        summary="Reported before",
        response_only=True,
        status_codes=["200"],
    ),
)
