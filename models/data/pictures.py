"""One picture in a file: whether it can be read, found out as cheaply as its format allows, and its pixels.

Pictures of 8 bits become RGB as in torchvision (alpha is dropped, EXIF orientation is not applied, of an animation the
first frame counts). Grey levels of more bits stay floats, on the scale of bytes.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError, first_line

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_PPM_SUFFIXES = (".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
SUFFIXES = (*_JPEG_SUFFIXES, *_PPM_SUFFIXES, ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif")
MOST_PIXELS = 89_478_485  # from here on Pillow warns of decompression bombs: a picture takes a quarter of a gigabyte
WHITE_16_BIT = 65535
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes of one channel with more than 8 bits
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a link to a folder"),
)


class UnreadablePictureError(UserError):
    """A picture that was listed as readable and is not, or not any more: met while a search runs, as a rule."""


@dataclass(frozen=True)
class Check:
    """What is known of a picture without its pixels."""

    fault: str = ""
    """Why it cannot be read; empty if it can."""
    mode: str = ""
    low: float = 0.0
    high: float = 0.0
    """Extremes of a picture in mode I or F, whose scale the file does not tell."""


def is_deep(mode: str) -> bool:
    """Whether Pillow's mode is one of grey levels of more than 8 bits."""
    return mode in _DEEP


def check_picture(path: Path, *, decode: bool = True) -> Check:
    """Find out whether a picture can be read.

    PNG is read by its check sums. JPEG and WebP have none, so they must be decoded: a JPEG in the smallest size, for
    which libjpeg reads the whole file as well and meets the same faults (0.66 ms instead of 0.75 for 500 x 375 pixels).

    Args:
        decode: JPEG and WebP too; without it only their headers and ends are looked at, in less than a tenth of the
            time, and damage in between is found when the picture is used.
    """
    from PIL import Image

    if fault := _why_no_file(path):
        return Check(fault)
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return Check(_too_large(picture.width * picture.height))
            mode, low, high = picture.mode, 0.0, 0.0
            if mode in ("I", "F"):
                values = np.asarray(picture)
                low, high = float(values.min()), float(values.max())
                if not np.isfinite([low, high]).all():
                    return Check("it holds NaN or infinite values")
            elif picture.format == "PNG":
                picture.verify()  # check sums of all blocks
            elif decode or not _is_complete(path, str(picture.format)):
                _decode_smallest(picture)
            return Check("", mode, low, high)
    except Image.DecompressionBombError:
        return Check(_too_large(2 * MOST_PIXELS))
    except Image.UnidentifiedImageError:
        return Check("it is an empty file" if path.stat().st_size == 0 else "it is in no format of pictures")
    except Exception as error:  # Pillow's decoders raise whatever their formats' parsers do
        return Check(f"it is damaged ({_error_text(error)})")


def _why_no_file(path: Path) -> str:
    """Why a path is no file that can be opened, empty if it is one: opening a pipe or a device may block for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "it is a link to nothing" if path.is_symlink() else str(error.strerror)
    return "" if stat.S_ISREG(mode) else next((f"it is {name}" for test, name in _KINDS if test(mode)), "it is no file")


def _too_large(pixels: int) -> str:
    return f"it has {pixels / 1e6:,.0f} megapixels or more, and at most {MOST_PIXELS / 1e6:.0f} are read"


def _decode_smallest(picture: Any) -> None:
    """Decode a JPEG in an eighth of its size and without colours, any other format as it is."""
    picture.draft("L" if picture.mode in ("L", "RGB") else None, (1, 1))
    picture.load()


def _is_complete(path: Path, form: str) -> bool:
    """Whether a file is certainly not cut off, by what JPEG and WebP say of their ends; of other formats it is open."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        if form == "JPEG":  # its end-of-image mark; some cameras fill up with zeros behind it
            file.seek(-min(1024, size), os.SEEK_END)
            return file.read().rstrip(b"\0").endswith(b"\xff\xd9")
        # RIFF: the size of what follows stands in bytes 4 to 7
        return form == "WEBP" and int.from_bytes(file.read(8)[4:], "little") + 8 <= size


def decode_picture(path: str, deep_white: float) -> Any:
    """A picture as Pillow has it, in mode RGB, or F with floats from 0 to 255 for grey levels of more than 8 bits.

    Args:
        deep_white: what is white in modes I and F, whose range no header tells.

    Raises:
        UnreadablePictureError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise UserError(_too_large(opened.width * opened.height))
            if not is_deep(opened.mode):
                return opened.convert("RGB")
            white = deep_white if opened.mode in ("I", "F") else WHITE_16_BIT
            return Image.fromarray((np.asarray(opened, np.float64) * (255 / white)).astype(np.float32))
    except Exception as error:  # as in check_picture; the file may have changed since
        raise UnreadablePictureError(
            f"image {path} cannot be read: {_error_text(error)}; put a readable picture in its place"
        ) from error


def _error_text(error: Exception) -> str:
    """Of the system's errors without their number and the path, which is named beside it."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else first_line(error)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings on odd metadata and large pictures, which would end up on the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
