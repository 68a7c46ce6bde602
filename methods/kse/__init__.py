"""KSE, kernel sparsity and entropy (Li et al., CVPR 2019)."""
