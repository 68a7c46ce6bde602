"""How one place of a network is compressed, given its setting: one method, one file."""
