"""sampand: settings, object graph, sockets, start and stop."""
