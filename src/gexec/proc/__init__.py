"""Processes: spawning, reaping, ending them, and the channel between relay and spawner."""
