"""Every setting of a run: declared, checked, printed as a command."""
