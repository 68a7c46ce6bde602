"""Layers whose kernels come from a codebook: clustering, packing and cost."""
