"""The daemon that signs credentials and certificates."""
