"""Kernel clustering (Son et al., ECCV 2018)."""
