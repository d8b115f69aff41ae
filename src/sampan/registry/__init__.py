"""A registry of OCI images: repositories, manifests, blobs, and the rules and upkeep around them."""
