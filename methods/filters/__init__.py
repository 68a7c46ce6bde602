"""Filter pruning: criteria that rank coupled output channels, and optimal brain surgeon."""
