"""Faults of the machine rather than of a candidate: a full disk, no more file handles, a folder or file that is gone.

They would meet any candidate, and go when somebody frees space or mounts the disk again. So they are no outcome: the
search stops, and goes on later as if nothing had happened. A picture that cannot be read any more is such a fault too.
"""

from __future__ import annotations

import errno
import os
import re

from models.data.pictures import UnreadablePictureError
from models.errors import UserError, first_line
from search.candidate import Outcome, failed_outcome
from search.files.atomic import final_name
from search.machine.system_errors import KNOWN_NUMBERS, system_advice

NOTE = "machine_fault"  # of an outcome that is none; it never enters a ledger
_NUMBERS = sorted(KNOWN_NUMBERS - {errno.ENOMEM})  # memory is what candidates differ in
# As libraries that are not Python's wrap them: safetensors has "(os error 28)", torch the system's words.
_NUMBERED = re.compile(r"(?:\bos error |\[Errno )(\d+)")
# The system's own words count only where a message is of them alone, as in safetensors' "No such file or directory: x",
# or ends with them after a colon, as in torch's "unable to open file </x>: No such file or directory (2)": elsewhere
# they may be anybody's.
_WORDS = "|".join(re.escape(os.strerror(number)) for number in _NUMBERS)
_WORDED = re.compile(
    rf"^(?P<first>{_WORDS})(?:: \S+)?\s*$|: ?(?P<last>{_WORDS})(?: \(\d+\))?(?=[.,;]?(?:\s*$|\n|, file path))"
)
# An accelerator's library uses the same words of its own calls, as in "CUDA error: operation not permitted".
_ACCELERATOR = re.compile(r"\b(?:CUDA|HIP|NCCL|cuDNN|cuBLAS|MPS|XPU)\b(?: \w+)? (?:error|failure)", re.IGNORECASE)
_FULL = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|database or disk is full", re.IGNORECASE)
_NO_HANDLES = re.compile(r"received \d+ items of ancdata")  # what torch says where file handles could not be sent


class MachineFaultError(UserError):
    """The search cannot go on here and now; no candidate is to blame."""


def machine_fault(error: BaseException) -> str | None:
    """What is wrong with the machine and what would do, in one clause; None of an error that may be the candidate's."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UnreadablePictureError):
            return str(link)
        # One without a number was not raised by the system, but perhaps by the user's own code.
        if isinstance(link, OSError) and link.errno is not None and link.errno != errno.ENOMEM:
            return _fault_sentence(link.errno, _place_of(link), link.strerror or first_line(link))
        number = _number_in(str(link))
        if number is not None:
            return _fault_sentence(number, "", first_line(link))
        link = link.__cause__
    return None


def fault_outcome(fault: str, seconds: float = 0.0, device: str = "") -> Outcome:
    """How a fault reaches whoever hands out candidates, from whatever process and machine."""
    return failed_outcome(fault, seconds, device).model_copy(update={"notes": {NOTE: True}})


def is_machine_fault(outcome: Outcome) -> bool:
    """Whether the outcome says nothing of its candidate; earlier versions recorded such as failures."""
    if outcome.status == "ok":
        return False
    reason = outcome.reason or ""
    return bool(outcome.notes.get(NOTE) or re.match(r"OSError: \[Errno (28|30|24|23|122)\]", reason)
                or _FULL.search(reason))  # fmt: skip


def _place_of(error: OSError) -> str:
    return f"{final_name(error.filename)}: " if isinstance(error.filename, str) else ""


def _number_in(text: str) -> int | None:
    """The number of the system's error that a library's words tell of; None if they tell of none that has advice."""
    numbered = _NUMBERED.search(text)
    if numbered and int(numbered[1]) in _NUMBERS:
        return int(numbered[1])
    if _FULL.search(text):
        return errno.ENOSPC
    if _NO_HANDLES.search(text):
        return errno.EMFILE
    worded = None if _ACCELERATOR.search(text) else _WORDED.search(text)
    if worded is None:
        return None
    words = worded["first"] or worded["last"]
    return next(number for number in _NUMBERS if os.strerror(number) == words)


def _fault_sentence(number: int | None, place: str, words: str) -> str:
    return f"{place}{words}; {system_advice(number)}"
