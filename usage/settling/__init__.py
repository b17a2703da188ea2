"""Where ledger and counters meet: reports, charges, expired holds, rebuilds. The only room that sees both."""
