"""Evaluate, in the order of the modules that a call passes: request, snapshot, terms, assessment, decision, answer."""
