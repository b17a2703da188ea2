"""Live counters in the counter store: hold, charge, release. Knows nothing of the ledger.

Each Lua script stands beside the module of the same name that calls it; `prelude.lua` says what stands in the store.
"""
