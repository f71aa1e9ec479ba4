"""gexecd's start-up: sockets, certificate, then spawner and relay."""
