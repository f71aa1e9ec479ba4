"""The client: credential, submission, the stream of a job's events. Part of the thin client."""
