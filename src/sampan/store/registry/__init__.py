"""The registry's own database: repositories, manifests with their bytes, tags, links to blobs, uploads.

It shares :mod:`sampan.store.db` with the engine's, not its file: a registry runs without an engine.
"""
