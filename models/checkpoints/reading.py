"""Files of weights, read without running anything that stands in them; what a file is instead is said by name."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.checkpoints.pickle_scan import check_pickle_calls
from models.checkpoints.pickled_names import HARMLESS_NAMES
from models.errors import UserError, first_line

_HEAD = 1024  # bytes that tell what a file is
_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer in place of the weights; fetch them with `git lfs pull`",
    b"/annex/objects/": "a git-annex pointer in place of the weights; fetch them with `git annex get`",
    b"../.git/annex/": "a git-annex pointer in place of the weights; fetch them with `git annex get`",
    b"\x89HDF": "an HDF5 file (Keras, h5py), which torch does not read",
    b"\x93NUMPY": "a NumPy array and no checkpoint",
    b"GGUF": "a GGUF file, whose weights are quantized",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"BZh": "compressed (bzip2); unpack it first",
    b"\xfd7zXZ": "compressed (xz); unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstd); unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
}
_ZIP, _TAR, _TAR_PLACE = b"PK\x03\x04", b"ustar", 257
_SAVE = "save a state dict with torch.save(network.state_dict(), file)"


def read_checkpoint(path: Path) -> Any:
    """The content of a safetensors file or of one that torch.save wrote, on the CPU; only plain data is unpickled.

    Raises:
        UserError: no such file, another kind of file (named), a damaged one, or one that holds code.
    """
    head = read_head(path)
    if (other_kind := _other_kind(path, head)) is not None:
        raise UserError(f"checkpoint {path} is {other_kind}")
    try:
        if is_safetensors(head):
            return load_file(path)
        check_pickle_calls(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS_NAMES):
            warnings.simplefilter("ignore")  # torch's about sparse tensors and old storages
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused_pickle(path, error) from error
    except Exception as error:  # damaged bytes raise anything in torch's reader
        raise unreadable_checkpoint(path, error) from error


def read_head(path: Path) -> bytes:
    """The first bytes of a file; UserError if it is none, or cannot be opened. A named pipe is not waited for."""
    if path.is_dir():
        raise UserError(f"checkpoint {path} is a folder; give the file of weights in it")
    if path.exists() and not path.is_file():
        raise UserError(f"checkpoint {path} is no regular file; give a file of weights")
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be opened: {error.strerror or first_line(error)}") from error
    if not head:
        raise UserError(f"checkpoint {path} is empty; copy or download it again")
    return head


def is_safetensors(head: bytes) -> bool:
    """By content: eight bytes of length, then JSON."""
    return head[8:9] == b"{" and b"\0" in head[:8]


def unreadable_checkpoint(path: Path, error: Exception) -> UserError:
    """For a file of the right kind that ends too early or is damaged."""
    reason = first_line(error)
    if isinstance(error, SafetensorError | OSError | EOFError | RuntimeError) and "weights_only" not in reason:
        return UserError(f"checkpoint {path} cannot be read ({reason}); is it complete?")
    return UserError(f"checkpoint {path} is damaged, or no file that torch or safetensors wrote; {_SAVE}")


def _other_kind(path: Path, head: bytes) -> str | None:
    """What the file is, if it is no checkpoint."""
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page and no checkpoint; download the file itself"
    if head[_TAR_PLACE : _TAR_PLACE + len(_TAR)] == _TAR:
        return f"a tar archive; unpack it, or {_SAVE}"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and (b"onnx" in head or b"pytorch" in head)):
        return "an ONNX model, whose weights belong to no nn.Module; give the checkpoint that it was made from"
    if head.startswith(_ZIP):
        return _other_archive(path)
    if _is_text(head):
        return f"a text file and no checkpoint; {_SAVE}"
    return None


def _other_archive(path: Path) -> str | None:
    """What a zip archive is, if torch.save did not write it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged names, unknown versions and compressions raise errors of many kinds
        return "cut off or damaged: the end of its archive is missing; is it complete? copy or download it again"
    leaves = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        return f"a TorchScript archive (torch.jit.save), which is a program; {_SAVE} of the nn.Module"
    if any(name.endswith("archive_format") for name in names):
        return f"a program of torch.export; {_SAVE} of the nn.Module"
    if "data.pkl" in leaves:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz file of arrays and no checkpoint"
    return f"a zip archive that torch.save did not write; {_SAVE}"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not just a character that the end of the head cuts in two
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _refused_pickle(path: Path, error: Exception) -> UserError:
    """Names the class or function that a pickle asks for; torch's advice to load it all the same is not passed on."""
    match = re.search(r"GLOBAL\s+`?([\w.]+[\w])", str(error))
    name = match.group(1) if match else None
    if name is None:
        return UserError(
            f"checkpoint {path} is damaged, or no file that torch or safetensors wrote "
            f"(plain data is read, nothing else is unpickled); {_SAVE}"
        )
    what = "a whole network" if name.startswith("torch.nn.modules.") else "an object of some code"
    return UserError(f"checkpoint {path} holds {what} ({name}); plain data is read, nothing else is unpickled; {_SAVE}")
