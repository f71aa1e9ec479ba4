"""Nodes in networks of their own, whose router loses and delays packets: faults of real daemons."""
