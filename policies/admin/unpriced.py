"""Calls that were blocked for want of a price, for the list of prices, which knows the ledger alone."""

from __future__ import annotations

from policies.blocked.unpriced_calls import blocked_unpriced
from usage.admin.price_list import seen_by

seen_by(blocked_unpriced)
