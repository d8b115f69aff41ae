"""Protocols to engine: translate, never decide."""
