"""What every layer may use: errors, identifiers, time, logging, keyed locks. Imports nothing of Sampan."""
