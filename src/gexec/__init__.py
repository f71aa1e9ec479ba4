"""Run one command on all machines of a cluster."""
