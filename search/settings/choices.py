"""Names that can be checked at once: before data are read, networks are loaded, and a baseline is trained."""

from __future__ import annotations

from collections.abc import Iterable

from methods.registry import method_info
from models.devices import pick_device
from search.strategies.registry import find_strategy


def check_choices(methods: Iterable[str] = (), strategies: Iterable[str] = (), device: str | None = None) -> None:
    """Refuse methods and strategies that nobody has registered, and a device that is not there.

    Args:
        device: None takes a GPU if there is one.

    Raises:
        UserError: the first name that is unknown, or the device.
    """
    for name in methods:
        method_info(name)
    for name in strategies:
        find_strategy(name)
    pick_device(device)
