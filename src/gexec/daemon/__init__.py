"""The services: relay, spawner process, gexecd as a whole, authd."""
