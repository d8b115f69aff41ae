"""The engine about itself and its host: info, version, df, stats."""
