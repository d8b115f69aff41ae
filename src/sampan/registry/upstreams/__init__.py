"""Pull-through caches: repositories that are copies of other registries', fetched when somebody asks."""
