"""Which channels belong together, how they are removed, and what is left of every layer."""
