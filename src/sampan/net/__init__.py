"""Networks of containers on this machine: drivers, addresses, published ports and their firewall rules."""
