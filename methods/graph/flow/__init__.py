"""Which channels belong together, found by labels that flow through the operators of a forward pass."""
