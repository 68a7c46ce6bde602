"""Rows of a damaged SQLite file, found by texts that they hold, without the file's tables, pages and indexes.

A row is a *cell* in some page: the size of its payload, its row id, the types of its columns, the columns. A payload
that does not fit its page goes on in a chain of overflow pages (https://www.sqlite.org/fileformat2.html, sections 1.5
and 2.1). `CellReader` looks for a text anywhere in the file and tries each byte shortly before it as the beginning of
its cell. So neither schema nor page headers nor b-trees are needed, and damage to these costs no row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PAGE_SIZE = 4096  # SQLite's default since 2016
REACH = 48  # bytes at most between the beginning of a cell and the end of its header and numbers, for rows of ours
MAX_PAYLOAD = 2**26  # bytes; a larger size is taken for damage

_NUMBER_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # serial type -> bytes
Value = int | bytes | None
Shape = Callable[[tuple[Value, ...]], bool]


@dataclass(frozen=True)
class Row:
    """A row; texts are bytes, as damage may lie in them."""

    rowid: int
    values: tuple[Value, ...]
    position: int
    """Of the text that it was found by, in the file."""


class _NoCellError(Exception):
    """These bytes are no cell."""


class CellReader:
    """Finds rows in the bytes of a database file."""

    def __init__(self, content: bytes, page_size: int, reserved: int = 0) -> None:
        """`reserved`: bytes at the end of each page that hold nothing."""
        self._content, self._page_size, self._usable = content, page_size, page_size - reserved

    def find_rows(self, text: re.Pattern[bytes], shape: Shape) -> Iterator[tuple[int, Row | None]]:
        """Where `text` lies in the file, and the row that holds it there; None if there is none of that shape."""
        for match in text.finditer(self._content):
            yield match.start(), self._row_around(match.start(), shape)

    def _row_around(self, position: int, shape: Shape) -> Row | None:
        for start in range(position - 6, max(-1, position - REACH), -1):
            try:
                row = self._read_cell(start, position)
            except (_NoCellError, IndexError):
                continue
            if shape(row.values):
                return row
        return None

    def _read_cell(self, start: int, position: int) -> Row:
        """The cell that begins at `start`, one of whose columns begins at `position`."""
        size, offset = self._read_varint(start)
        rowid, offset = self._read_varint(offset)
        if not 4 <= size <= MAX_PAYLOAD:
            raise _NoCellError
        header_size, types_at = self._read_varint(offset)
        if not 2 <= header_size <= min(size, 64):
            raise _NoCellError
        types = []
        while types_at < offset + header_size:
            kind, types_at = self._read_varint(types_at)
            types.append(kind)
        sizes = [_column_bytes(kind) for kind in types]
        begins = [offset + header_size + sum(sizes[:index]) for index in range(len(sizes))]
        if types_at != offset + header_size or header_size + sum(sizes) != size or position not in begins:
            raise _NoCellError
        payload = self._read_payload(offset, size)
        values, at = [], header_size
        for kind, width in zip(types, sizes, strict=True):
            values.append(_column_value(kind, payload[at : at + width]))
            at += width
        return Row(rowid, tuple(values), position)

    def _read_payload(self, offset: int, size: int) -> bytes:
        """All bytes of a payload that begins at `offset`, those in overflow pages too."""
        local = self._local_size(size)
        payload = bytearray(self._content[offset : offset + local])
        page = int.from_bytes(self._content[offset + local : offset + local + 4]) if local < size else 0
        while len(payload) < size:
            begin = (page - 1) * self._page_size
            if page < 1 or begin >= len(self._content):
                raise _NoCellError
            piece = self._content[begin + 4 : begin + self._usable]
            if not piece:  # the file ends within the page: the chain could go on for ever
                raise _NoCellError
            payload += piece[: size - len(payload)]
            page = int.from_bytes(self._content[begin : begin + 4])
        return bytes(payload)

    def _local_size(self, size: int) -> int:
        """How many bytes of a payload lie in the cell's own page: X, M, K and U - 35 of the format's description."""
        usable = self._usable
        max_local, min_local = usable - 35, (usable - 12) * 32 // 255 - 23
        if size <= max_local:
            return size
        filled = min_local + (size - min_local) % (usable - 4)  # so that the last overflow page is full
        return filled if filled <= max_local else min_local

    def _read_varint(self, offset: int) -> tuple[int, int]:
        """A number of one to nine bytes, and where it ends."""
        value = 0
        for index in range(9):
            byte = self._content[offset + index]
            if index == 8:
                return value << 8 | byte, offset + 9
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                return value, offset + index + 1
        raise AssertionError("unreachable")


def page_layouts(content: bytes) -> list[tuple[int, int]]:
    """(page size, reserved bytes at the end of each page) that the file may have: of its header, and the usual ones."""
    size = int.from_bytes(content[16:18])
    size = 65536 if size == 1 else size
    sizes = [size, PAGE_SIZE] if size >= 512 and size.bit_count() == 1 else [PAGE_SIZE]
    ends = [content[20], 0] if len(content) > 20 and content[20] <= 64 else [0]
    return list(dict.fromkeys((size, end) for size in sizes for end in ends))


def _column_bytes(kind: int) -> int:
    if kind in _NUMBER_SIZES:
        return _NUMBER_SIZES[kind]
    if kind < 12 or kind > 2 * MAX_PAYLOAD:
        raise _NoCellError
    return (kind - 12) // 2


def _column_value(kind: int, content: bytes) -> Value:
    if kind in (0, 7):  # no row of ours holds a number that is not whole
        return None
    if kind in (8, 9):
        return kind - 8
    return content if kind >= 12 else int.from_bytes(content, signed=True)
