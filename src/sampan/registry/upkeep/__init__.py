"""What a registry does for itself while it serves: collecting garbage, re-reading blobs, snapshots."""
