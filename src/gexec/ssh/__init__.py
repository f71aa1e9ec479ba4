"""Jobs over the system's ssh, in gexecd's place: the same protocol for the client, one ssh for each rank."""
