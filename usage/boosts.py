"""A boost as evaluate takes it: extra allowance on one metric and window, for a time. Pure.

It raises limits that are counted per the very kind of subject it is for: one of a user those per user, one of a feature
those per feature, and so for plans and the environment. Limits per user_feature and per run are never raised.
"""

from __future__ import annotations

import msgspec

from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

# Kinds of subject that can have one.
BOOSTED_PERS = (Per.USER, Per.FEATURE, Per.PLAN, Per.ENVIRONMENT)


class BoostRef(msgspec.Struct, frozen=True, array_like=True):
    """`subject` is as `Subjects.name` has it; `extra` is nano-USD for costs. Runs from `starts_at_ms` until before
    `ends_at_ms`, by the store's clock."""

    per: Per
    subject: str
    metric: Metric
    window: Window
    extra: int
    starts_at_ms: int
    ends_at_ms: int


def raised(per: Per, metric: Metric, window: Window) -> str:
    """Names the limits that a boost raises."""
    return f"{per}:{metric}:{window}"
