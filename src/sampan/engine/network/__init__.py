"""The service of networks and who is on them."""
