"""Reads the administrator's files: configuration and keys."""
