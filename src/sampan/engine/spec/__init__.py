"""From a container's record to the OCI specification of its process; what can never work is refused here."""
