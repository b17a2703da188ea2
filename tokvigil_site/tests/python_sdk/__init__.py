"""The Python SDK beside the application itself: a web process, PostgreSQL and Valkey. The ledger is the judge."""

from collections.abc import Callable
from typing import Any

PATIENT_S = 10.0
MODEL = "gpt-4o-mini"
MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada"}]
DAILY_3 = "{metric: requests, window: day, amount: 3, per: user}"
Call = Callable[..., Any]
