"""What the administrator wrote: configuration and key files."""
