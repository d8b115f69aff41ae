"""The registry's process: settings, wiring, listening sockets. No engine is needed for it."""
