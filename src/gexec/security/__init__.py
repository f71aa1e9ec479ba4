"""Keys, credentials, certificates, replay and policy. No I/O, no clock, no randomness."""
