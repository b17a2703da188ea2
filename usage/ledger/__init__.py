"""The rows of what was used, written once: the truth. Knows nothing of the counters."""
