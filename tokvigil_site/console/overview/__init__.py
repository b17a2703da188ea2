"""The console's first page: what will go wrong next, what today costs, what changed; or a checklist for the new."""
