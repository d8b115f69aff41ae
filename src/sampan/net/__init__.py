"""Bridges, addresses, published ports and the files that name hosts."""
