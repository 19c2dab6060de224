"""Device mesh, sharding rules, distributed start."""
