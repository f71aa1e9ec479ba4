"""Starting gexecd: sockets, certificate, then spawner and relay."""
