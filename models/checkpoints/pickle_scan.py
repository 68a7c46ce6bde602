"""What a pickle of weights would call, found out from its opcodes before it is loaded.

`torch.load` with `weights_only=True` calls a few names that it takes for harmless whatever their arguments are, and
`bytearray(2**31)` in a file of a hundred bytes fills two gigabytes. Here the opcodes run on a stack of symbols, on
which nothing is called. What is allowed are the calls that Python and torch write themselves.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from models.errors import UserError

_TEXT_CODECS = ("latin1", "latin-1", "utf-8", "ascii")  # with others (hex) a chain of calls doubles its text each time
_LEGACY_PICKLES = 5  # what torch wrote before 1.6: magic number, version, system, the object, names of the storages
_MOST_EXPANSION = 100  # times the archive's size; torch.save does not compress, and repacked weights shrink by a tenth


class _Unknown:
    """A value on the stack that is of no interest."""


class _Mark:
    """The mark that `pickletools` calls `markobject`."""


@dataclass(frozen=True)
class _Global:
    """A function or class, by its full name."""

    name: str


_UNKNOWN, _MARK = _Unknown(), _Mark()
_Value = _Unknown | _Mark | _Global | tuple["_Value", ...] | str | bytes


def check_pickle_calls(path: Path) -> None:
    """Refuse a file of `torch.save` that calls what no weights need.

    Damaged pickles pass: `torch.load` stops at the same place and says why.

    Raises:
        UserError: a function is called that can take memory at will, or the archive unpacks to far more than it is.
        pickle.UnpicklingError: opcodes that no pickler writes.
    """
    for stream in _pickle_streams(path):
        with stream:
            for _ in range(_LEGACY_PICKLES):
                if not _check_stream(stream, path):
                    break


def _pickle_streams(path: Path) -> Iterator[IO[bytes]]:
    """The streams that `torch.load` may take for the object's pickle."""
    if not zipfile.is_zipfile(path):
        yield path.open("rb")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MOST_EXPANSION * os.path.getsize(path):
                raise UserError(
                    f"checkpoint {path} would unpack to more than {_MOST_EXPANSION} times its size; "
                    "save the weights anew with torch.save"
                )
            for entry in entries:
                if entry.filename.casefold().endswith("data.pkl"):  # torch looks names up in any case
                    yield archive.open(entry)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise pickle.UnpicklingError("the archive is damaged") from error


def _check_stream(stream: IO[bytes], path: Path) -> bool:
    """Check one pickle; whether another may follow it in the stream."""
    stack: list[_Value] = []
    memo: dict[int, _Value] = {}
    opcodes = pickletools.genops(stream)
    while True:
        try:
            opcode, argument, _ = next(opcodes)
        except StopIteration:
            return True
        except Exception:  # damaged, or not a pickle: torch's reader meets it too
            return False
        try:
            _run_opcode(opcode, argument, stack, memo, path)
        except (IndexError, KeyError) as error:
            raise pickle.UnpicklingError("opcodes that no pickler writes") from error


def _run_opcode(
    opcode: pickletools.OpcodeInfo, argument: object, stack: list[_Value], memo: dict[int, _Value], path: Path
) -> None:
    """Do to the stack of symbols what the opcode does to the unpickler's."""
    name = opcode.name
    if name in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[int(str(argument))] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[int(str(argument))])
    elif name == "GLOBAL":
        stack.append(_Global(str(argument).replace("__builtin__", "builtins").replace(" ", ".")))
    elif name == "MARK":
        stack.append(_MARK)
    else:
        popped = _pop_operands(opcode, stack)
        if name in ("REDUCE", "NEWOBJ"):
            stack.append(_check_call(popped[0], popped[1], path))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"):
            stack.append(popped)
        elif isinstance(argument, str | bytes):
            stack.append(argument)
        else:
            stack.extend([_UNKNOWN] * len(opcode.stack_after))


def _pop_operands(opcode: pickletools.OpcodeInfo, stack: list[_Value]) -> tuple[_Value, ...]:
    """Take off the stack what the opcode does, without marks."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = len(stack) - 1
        while stack[start] is not _MARK:
            if start == 0:
                raise IndexError("no mark")
            start -= 1
        start -= before.index(pickletools.markobject)
    else:
        start = len(stack) - len(before)
    if start < 0:
        raise IndexError("the stack is empty")
    popped = stack[start:]
    del stack[start:]
    return tuple(value for value in popped if value is not _MARK)


def _check_call(function: _Value, arguments: _Value, path: Path) -> _Value:
    """The symbol of what is returned; UserError for a call that weights do not consist of."""
    if not isinstance(function, _Global):
        return _UNKNOWN
    values = arguments if isinstance(arguments, tuple) else (_UNKNOWN,)
    name = function.name
    if name == "torch._tensor._rebuild_from_type_v2" and len(values) > 2:  # (function, class, its arguments, state)
        return _check_call(values[0], values[2], path)
    if name == "builtins.bytearray" and all(isinstance(value, str | bytes) for value in values):
        return _UNKNOWN
    if name == "_codecs.encode" and _encodes_text(values):
        return b""  # how Python 3 writes bytes for Python 2
    makes_memory = name.startswith("torch.") and name.endswith(("Tensor", "Storage"))
    if makes_memory or name in ("_codecs.encode", "builtins.bytearray"):
        raise UserError(
            f"checkpoint {path} calls {name.removeprefix('builtins.')} in a way that weights do not need and that can "
            "take any amount of memory; save a state dict with torch.save(network.state_dict(), file)"
        )
    return _UNKNOWN


def _encodes_text(values: tuple[_Value, ...]) -> bool:
    """Whether these arguments of `_codecs.encode` give about as many bytes as the pickle has characters."""
    if not values or not isinstance(values[0], str):
        return False
    return all(isinstance(codec, str) and codec in _TEXT_CODECS for codec in values[1:])
