"""Coupled channels of any network: their groups, their removal, and the cost of the widths that remain."""
