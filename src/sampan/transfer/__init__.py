"""Images over the network: a client of OCI registries, and downloads that are resumed."""
