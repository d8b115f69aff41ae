"""Reading containers' logs (the monitor writes them)."""
