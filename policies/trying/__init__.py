"""Try it: what would be decided of a call now, and why. Holds nothing, records nothing."""
