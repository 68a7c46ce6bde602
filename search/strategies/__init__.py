"""The strategies: one file a family, found by `search.strategies.contract`."""
