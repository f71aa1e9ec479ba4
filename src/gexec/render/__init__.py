"""Formats output: prefixed lines, the summary of failures. Part of the thin client."""
