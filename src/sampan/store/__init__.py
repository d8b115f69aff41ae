"""The only persistence: SQLite for desired state."""
