"""gexecd's privileged process, and the helpers that become users: starts and ends commands."""
