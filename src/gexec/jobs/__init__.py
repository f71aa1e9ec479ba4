"""Background jobs on a node: keepers, and what reads what they keep (docs/decisions/0029)."""
