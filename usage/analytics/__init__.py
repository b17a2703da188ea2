"""Questions about usage over a period: what is asked, what the ledger answers, and in which words."""
