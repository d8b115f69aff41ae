"""Rules about content: quotas, immutable tags, retention; and who is told of what happens."""
