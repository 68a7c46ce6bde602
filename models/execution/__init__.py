"""Running any network, whatever its code does: unwrapped, copied, in its memory order, with right gradients."""
