"""Links between daemons: TLS, framing over asyncio, the pool of warm links."""
