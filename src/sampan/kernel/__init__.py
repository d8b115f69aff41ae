"""The only place that talks to Linux: one module a concern, standard library only."""
