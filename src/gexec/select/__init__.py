"""Chooses a job's nodes: names, order, exclusion, tables of addresses. Pure, part of the thin client."""
