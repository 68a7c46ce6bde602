"""What ends a search before its time, other than the user: faults of the machine, a ledger that cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from models.errors import UserError
from search.judge.faults import MachineFaultError
from search.ledger.ledger import LedgerError


@contextmanager
def told_how_to_go_on(mark_stopped: Callable[[], None], resume_command: str) -> Iterator[None]:
    """Turns a fault of the machine into one sentence that ends with the command that goes on once it is put right."""
    try:
        yield
    except (MachineFaultError, LedgerError) as fault:
        with suppress(UserError, OSError):  # the same fault may stand in the way
            mark_stopped()
        raise UserError(
            f"stopped by a fault of this machine, not of a candidate: {fault}, then go on with: {resume_command}"
        ) from fault
