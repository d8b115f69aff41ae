"""Frozen structs for what is stored or sent. On the wire they have Docker's field names (docs/adr/0002)."""
