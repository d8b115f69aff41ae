"""The sampan command, a client of the API, and the sampan-oci runtime command."""
