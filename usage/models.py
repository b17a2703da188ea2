"""Where Django looks for the models of the rooms."""

from usage.analytics.models import SavedView
from usage.counting.models import TrackedPair
from usage.ledger.models import UsageEvent
from usage.prices.models import ModelPrice

__all__ = ["ModelPrice", "SavedView", "TrackedPair", "UsageEvent"]
