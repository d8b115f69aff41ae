"""Stand-ins for mechanisms that need root. Each passes the contract suite of the real one."""
