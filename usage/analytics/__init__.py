"""What the pages of costs and of health show: sums of the ledger, and how well counters and rollups keep up with it."""
