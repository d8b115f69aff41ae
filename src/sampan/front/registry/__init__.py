"""OCI distribution over HTTP: decodes, calls the registry, encodes."""
