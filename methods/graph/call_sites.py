"""Where in the code of a module an operator is called: the instructions of its Python frames."""

from __future__ import annotations

from dataclasses import dataclass
from types import FrameType

import torch
import torch._jit_internal
import torch._tensor
import torch.functional
import torch.nn.functional
import torch.nn.modules.module
import torch.overrides

Instruction = tuple[str, str, int, int]
"""Its file as Python imports it, its function, the line on which this begins, the instruction's offset."""
Instructions = tuple[Instruction, ...]

_TORCH_WRAPPERS = (torch.overrides.__file__, torch._tensor.__file__, torch.functional.__file__)
_FUNCTIONS = (torch.nn.functional.__file__, torch._jit_internal.__file__)
MODULE_CALL = torch.nn.modules.module.__file__


@dataclass(frozen=True)
class CallSite:
    """Where in the code of a module an operator is called.

    Attributes:
        instructions: the line of the module's code, after those of torch's functions that it went through.
        callers: the instructions that led there from the module's `forward`: of helpers, and of other methods.
    """

    instructions: Instructions
    callers: Instructions


def find_call_site(handler: FrameType) -> tuple[CallSite, FrameType | None]:
    """Where a call was made that torch handed to a mode, and the frame in which torch calls the module.

    Args:
        handler: the frame of the mode's `__torch_function__`.
    """
    # Modes lie in each other: `F.layer_norm` hands itself over anew to each, so that the call has been made by the
    # code around the first one, the outermost frame. Operators in Python (`x / 2`, `torch.split`) do likewise.
    frame, first = handler.f_back, handler
    while frame is not None and frame.f_code.co_filename != MODULE_CALL:
        if frame.f_code.co_name == "__torch_function__":
            first = frame
        frame = frame.f_back
    frame = first.f_back
    while frame is not None and frame.f_code.co_filename in _TORCH_WRAPPERS:
        frame = frame.f_back
    instructions: list[Instruction] = []
    inner = 0  # `F.layer_norm` hands itself over in one place, whoever calls it: its caller tells calls apart
    while frame is not None and frame.f_code.co_filename != MODULE_CALL:
        code = frame.f_code
        instructions.append((frame.f_globals.get("__name__", ""), code.co_qualname, code.co_firstlineno, frame.f_lasti))
        if not inner and code.co_filename not in _FUNCTIONS:
            inner = len(instructions)
        frame = frame.f_back
    return CallSite(tuple(instructions[:inner]), tuple(instructions[inner:])), frame


def runs_again(site: CallSite) -> bool:
    """Whether the backward pass calls the code around a call once more, or code that belongs to it."""
    return any(caller[0] in ("torch.utils.checkpoint", "torch.autograd.function") for caller in site.callers)
