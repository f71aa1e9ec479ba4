"""What goes over a connection: frames, jobs, outcomes, ranks, messages between relay and spawner. Pure."""
