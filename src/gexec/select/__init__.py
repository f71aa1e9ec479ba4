"""Which nodes a job runs on: names, order, exclusion, tables of addresses. Pure, part of the thin client."""
