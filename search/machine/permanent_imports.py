"""Imports that last as long as the process, which Python's garbage collector need not look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Around the import of torch and all that works with it: half a million objects, none of them ever garbage.

    The collector does not run meanwhile, and afterwards it passes over what is there: otherwise it looks at all of it
    again and again, a tenth of a second each time, while a network is traced and copied.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
