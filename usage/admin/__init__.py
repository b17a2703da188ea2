"""The console's pages of usage and prices. Django finds them by importing this package."""

from usage.admin import explorer, health, saved_views
from usage.admin.events import UsageEventAdmin
from usage.admin.prices import ModelPriceAdmin

__all__ = ["ModelPriceAdmin", "UsageEventAdmin", "explorer", "health", "saved_views"]
