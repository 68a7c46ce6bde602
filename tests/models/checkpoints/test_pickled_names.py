"""NumPy's arrays and other objects in checkpoints: weights are read, the rest is left out, nothing is built."""

from __future__ import annotations

import datetime
import fractions
import random
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.loading import load_weights
from models.errors import UserError

_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ADDRESS = struct.pack("<Q", 0x4141414141414141)


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def trained() -> dict[str, Tensor]:
    """Weights of which every value differs from a fresh network's."""
    return {n: torch.arange(t.numel()).reshape(t.shape).to(t.dtype) + 5 for n, t in _network().state_dict().items()}


def _assert_loads(content: Any, folder: Path, expected: dict[str, Tensor]) -> None:
    torch.save(content, folder / "w.pt")
    network = _network()
    load_weights(network, folder / "w.pt")
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


BESIDE: dict[str, Any] = {
    "objects": np.array(["cat", "dog"], dtype=object), "texts": np.array(["cat", "dog"]), "bytes": np.array([b"a"]),
    "records": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]), "long double": np.longdouble(1),
    "long doubles": np.zeros(2, np.longdouble), "complex": np.ones(2, complex), "times": np.zeros(2, "M8[s]"),
    "type of objects": np.dtype("O"), "type": np.dtype("f4"), "class": np.float32, "masked": np.ma.masked_array([1.0]),
    "generator": np.random.RandomState(0).get_state(), "range": range(3), "slice": slice(1, 2), "ellipsis": ...,
    "fraction": fractions.Fraction(1, 2), "type of none": type(None), "classes": [int, str, bytes, range],
    "scalars": [np.complex64(1), np.datetime64("2026-01-01"), np.bytes_(b"x"), np.float16(1)],
    "zones": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "keys": {range(3): 1, fractions.Fraction(1, 2): 2},
    "empty": np.zeros((0, 3)), "view": np.arange(6.0).reshape(2, 3)[::-1, 1:],
}  # fmt: skip


@pytest.mark.parametrize("where", ["beside", "among"])
@pytest.mark.parametrize("what", BESIDE)
def test_what_is_no_weight_is_left_out(tmp_path: Path, trained: dict[str, Tensor], what: str, where: str) -> None:
    value = BESIDE[what]
    if where == "among" and isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        pytest.skip("numbers among the weights are another network's")
    content = {**trained, "x": value} if where == "among" else {"model": trained, "x": value}
    _assert_loads(content, tmp_path, trained)


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda a: a,
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "by columns": lambda a: np.asfortranarray(a) if a.ndim else a,
    "long double": lambda a: a.astype(np.longdouble) if a.dtype.kind == "f" else a,
    "double": lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a,
    "half": lambda a: a.astype(np.float16) if a.dtype.kind == "f" else a,
    "unsigned": lambda a: a.astype(np.uint16) if a.dtype.kind == "i" else a,
    "view": lambda a: a[::-1][::-1] if a.ndim else a,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_as_weights(tmp_path: Path, trained: dict[str, Tensor], kind: str) -> None:
    content = {"model": {name: ARRAYS[kind](tensor.numpy()) for name, tensor in trained.items()}}
    _assert_loads(content, tmp_path, trained)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(5, np.float32), r"0.bias is \(5,\) where the network has \(4,\)"),
        (np.zeros(4, np.int64), "0.bias holds torch.int64"),
        (np.array([None] * 4), "0.bias is an array of another type than plain numbers"),
        (fractions.Fraction(1, 2), "0.bias is a Fraction and no tensor"),
    ],
)
def test_an_array_that_is_no_such_weight(tmp_path: Path, trained: dict[str, Tensor], array: Any, said: str) -> None:
    torch.save({**trained, "0.bias": array}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=said):
        load_weights(_network(), tmp_path / "w.pt")


class _Call:
    """Pickled as a call of a function, and the state that the result is given."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], *state: Any) -> None:
        self.reduced = (function, arguments, *state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def _array(code: str, state: tuple[Any, ...], content: Any, shape: Any = (1,)) -> _Call:
    kind = _Call(np.dtype, (code, False, True), state)
    return _Call(_RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, content))


_OBJECTS = np.dtype("O")
HOSTILE: dict[str, Any] = {
    "addresses": _array("O", (3, "|", None, None, None, -1, -1, 0), _ADDRESS),
    "addresses in fields": _array("i8", (3, "<", None, ("a",), {"a": (_OBJECTS, 0)}, 8, 8, 0), _ADDRESS),
    "addresses in text": _array("S8", (3, "|", None, ("a",), {"a": (_OBJECTS, 0)}, 8, 1, 0), _ADDRESS),
    "addresses in sub-arrays": _array("i8", (3, "<", (_OBJECTS, (1,)), None, None, 8, 8, 0), _ADDRESS),
    "flags of numbers": _array("i8", (3, "<", None, None, None, 8, 8, 0x3F), _ADDRESS),
    "flags of text": _array("S8", (3, "|", None, None, None, 8, 1, 0x3F), [b"aaaaaaaa"]),
    "negative size": _array("S8", (3, "|", None, None, None, -8, 1, 0), b"x" * 32, (4,)),
    "size of a text": _array("S8", (3, "|", None, None, None, 2**32 - 1, 1, 0), b"", (2**32,)),
    "size of a scalar": _Call(
        _SCALAR, (_Call(np.dtype, ("S8", False, True), (3, "|", None, None, None, 2**30, 1, 0)), b"")
    ),
    "many numbers": _Call(_RECONSTRUCT, (np.ndarray, (2**40,), b"b")),
    "many doubles": _Call(_RECONSTRUCT, (np.ndarray, (2**31,), b"d")),
    "array of addresses": _Call(list, (_Call(np.ndarray, ((3,), "O", b"A" * 24)),)),
    "array of objects": _Call(_RECONSTRUCT, (np.ndarray, (3,), "O")),
    "array over bytes": _Call(np.ndarray, ((4,), "f8", b"x" * 32, 0, (1 << 40,))),
    "shape of too many": _array("f8", (3, "<", None, None, None, -1, -1, 0), _ADDRESS, (2**33, 2**33)),
    "negative shape": _array("f8", (3, "<", None, None, None, -1, -1, 0), _ADDRESS, (-1, -1)),
    "shape of nothing": _array("f8", (3, "<", None, None, None, -1, -1, 0), b"", (0, 2**62, 2**62)),
    "shape of one": _array("f8", (3, "<", None, None, None, -1, -1, 0), _ADDRESS, (True,)),
    "shape of text": _array("f8", (3, "<", None, None, None, -1, -1, 0), _ADDRESS, "ab"),
    "no bytes": _array("f8", (3, "<", None, None, None, -1, -1, 0), [1.0]),
    "no type": _Call(_RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), "O", False, _ADDRESS)),
    "long number": _Call(int, (_Call(fractions.Fraction, ("1e9999999",)),)),
}

_LOADING = """
    import resource, sys
    import torch
    from torch import nn
    from models.checkpoints.loading import load_weights
    from models.errors import UserError
    load = lambda path: load_weights(nn.Linear(2, 2), path)
    load(sys.argv[1])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in sys.argv[2:]:
        try:
            load(path)
        except UserError as error:
            assert "\\n" not in str(error)
    print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""


def _grown(folder: Path, *files: Path) -> int:
    """KiB that another process needs for the files beyond what it needs for a plain one; a crash fails the test."""
    torch.save(nn.Linear(2, 2).state_dict(), folder / "plain.pt")
    command = [sys.executable, "-c", textwrap.dedent(_LOADING), str(folder / "plain.pt"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_arrays_that_lie_are_not_built(tmp_path: Path) -> None:
    weights, files = nn.Linear(2, 2).state_dict(), []
    for number, value in enumerate(HOSTILE.values()):
        for where, content in enumerate(
            ({"model": weights, "x": value}, {**weights, "x": value}, {**weights, "bias": value})
        ):
            files.append(tmp_path / f"{number}-{where}.pt")
            torch.save(content, files[-1])
    assert _grown(tmp_path, *files) < 50_000


def test_one_content_of_many_arrays_is_not_copied(tmp_path: Path) -> None:
    """Ten megabytes that four hundred arrays name."""
    content = bytes(10_000_000)
    kind = _Call(np.dtype, ("f4", False, True), (3, ">", None, None, None, -1, -1, 0))
    arrays = {f"{i}": _Call(_RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2_500_000,), kind, False, content))
              for i in range(400)}  # fmt: skip
    torch.save({**nn.Linear(2, 2).state_dict(), **arrays}, tmp_path / "w.pt")
    assert _grown(tmp_path, tmp_path / "w.pt") < 200_000


def _with_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Rewrite the pickle in a file of torch's, and leave its archive sound."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def test_pickles_changed_at_random_do_no_harm(tmp_path: Path) -> None:
    rng, files = random.Random(3), []
    values = [*BESIDE.values(), *HOSTILE.values(), np.arange(6.0).reshape(2, 3)]

    def changed(content: bytes) -> bytes:
        altered = bytearray(content)
        for _ in range(rng.choice([1, 2, 6])):
            altered[rng.randrange(len(altered))] = rng.choice([rng.randrange(256), *b"Rb\x81}])(tq0\x85\x86\x87"])
        return bytes(altered)

    for number in range(400):
        files.append(tmp_path / f"{number}.pt")
        weights = {name: tensor.numpy() for name, tensor in nn.Linear(2, 2).state_dict().items()}
        torch.save({"model": weights, "x": rng.choice(values)}, files[-1])
        _with_pickle(files[-1], changed)
    assert _grown(tmp_path, *files) < 200_000
