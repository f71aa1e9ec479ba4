"""The daemon that signs who asks."""
