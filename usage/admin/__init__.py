"""The console's pages of usage and prices. Django finds them by importing this package."""

from usage.admin import explorer as explorer
from usage.admin import health as health
from usage.admin import saved_views as saved_views
from usage.admin.events import UsageEventAdmin
from usage.admin.prices import ModelPriceAdmin

__all__ = ["ModelPriceAdmin", "UsageEventAdmin", "health"]
