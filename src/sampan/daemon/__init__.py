"""The daemon ``sampand``: settings, sockets, signals, and the one file that builds the object graph."""
