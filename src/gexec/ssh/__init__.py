"""Jobs over the system's ssh instead of gexecd: the same protocol for the client, one ssh for each rank."""
