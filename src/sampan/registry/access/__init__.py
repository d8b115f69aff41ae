"""Who asks, and what they may do: passwords, tokens, client certificates, rules."""
