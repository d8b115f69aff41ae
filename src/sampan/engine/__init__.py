"""The verbs. The only layer that locks, opens transactions and publishes events."""
