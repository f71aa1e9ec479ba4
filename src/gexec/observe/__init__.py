"""What is written down: the audit log and the daemons' own log."""
