"""Starts, supervises and enters containers: planner, spawner, monitor, sandbox and their client."""
