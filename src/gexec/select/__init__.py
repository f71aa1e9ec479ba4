"""Which nodes a job runs on. Part of the thin client."""
