"""Small networks with every way in which channels can hang together; images (3, 8, 8), 7 classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from coupled_nets import branches, chains, fixed_widths, grouping, sharing

KINDS = (chains, branches, grouping, sharing, fixed_widths)
BUILDERS: tuple[Callable[[], nn.Module], ...] = tuple(
    function
    for kind in KINDS
    for function in vars(kind).values()
    if inspect.isfunction(function) and function.__module__ == kind.__name__
)
"""The functions of all kinds, each of which builds a network."""
