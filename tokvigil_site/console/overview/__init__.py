"""The first page: what will go wrong next, what the last days cost, what changed; or a checklist for the new."""
