"""How any network is run: unwrapped, copied, in its memory layout, with right gradients."""
