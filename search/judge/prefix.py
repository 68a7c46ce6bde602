"""Layers that the networks of a sensitivity scan have in common with the dense one are computed once.

A scan changes one site at a time. Up to that site every network computes, on the same images, what the dense one does.
`Prefix` records the output of the last cut before the site and replays it in place of all layers before. Outcomes are
the same to the bit. A network may be written such that this does not hold, so `measure_sharing` compares the first use
of each cut with a plain measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile

import torch
from torch import nn

from models.execution.inputs import Example
from search.candidate import Outcome
from search.judge.cuts import Cut, Outline, Recorded, record_cut, replay_cut

MAX_BYTES = 2**30  # of recorded outputs
MAX_GPU_SHARE = 0.25  # and of a GPU's free memory


Key = tuple[Cut, bytes, Hashable]
"""A cut, the digest of everything up to it, and on which images in which batches the network was called."""


class Prefix:
    """Outputs at cuts, recorded from earlier networks and replayed in later ones that are the same up to there."""

    def __init__(self, dense: nn.Module, example: Example) -> None:
        self._outline, self._device = Outline(dense, example), example.device
        self._dense_digests = self._outline.module_digests(dense)
        self._recorded: dict[Key, Recorded] = {}  # the one that was used last, and the one that was added then
        self._too_large: set[Cut] = set()
        self._trusted: set[Cut] = set()
        self.retired = False
        """Nothing is shared any more."""
        self.used: Cut | None = None
        """The cut whose output was replayed in the last network."""

    @property
    def recorded_bytes(self) -> int:
        return sum(recorded.nbytes for recorded in self._recorded.values())

    @property
    def doubtful(self) -> bool:
        """Whether the cut that was used last has not been compared with a plain measurement yet."""
        return self.used is not None and self.used not in self._trusted

    @contextmanager
    def sharing(self, network: nn.Module, calls: Hashable) -> Iterator[None]:
        """While this lasts, `network`'s first layers are not computed if an earlier network had the same ones.

        Args:
            calls: what decides how often and on which images the network is called, and nothing else.
        """
        digests = None if self.retired else self._outline.module_digests(network)
        self.used = None
        if digests is None:
            yield
            return
        key = self._last_recorded(digests, calls)
        self.used = None if key is None else key[0]
        next_cut = self._cut_to_record(digests, self.used)
        with ExitStack() as stack, torch.no_grad():
            if key is not None:
                stack.enter_context(replay_cut(network, key[0], self._recorded[key]))
            if next_cut is not None:
                self._recorded = {} if key is None else {key: self._recorded[key]}
                recorded = stack.enter_context(record_cut(network, next_cut, self._free_bytes()))
            yield
        if next_cut is not None and recorded.complete:
            self._recorded[next_cut, _digest_at(digests, next_cut), calls] = recorded
        elif next_cut is not None and key is None:
            self._too_large.add(next_cut)

    def trust_used_cut(self) -> None:
        """A plain measurement came out the same as with the cut that was used last."""
        if self.used is not None:
            self._trusted.add(self.used)

    def retire(self) -> None:
        """Share nothing any more: these networks look back past a cut, or there is no memory for it."""
        self.free_memory()
        self.retired = True

    def free_memory(self) -> None:
        self._recorded.clear()

    def _free_bytes(self) -> float:
        """How much may be recorded beside what is there."""
        free: float = MAX_BYTES - self.recorded_bytes
        if self._device.type == "cuda":
            free = min(free, MAX_GPU_SHARE * torch.cuda.mem_get_info(self._device)[0])
        return free

    def _last_recorded(self, digests: tuple[bytes, ...], calls: Hashable) -> Key | None:
        """The last cut up to which an earlier network was the same, and was called on the same images."""
        keys = [key for key in self._recorded if key[1:] == (_digest_at(digests, key[0]), calls)]
        return max(keys, key=lambda key: key[0].started, default=None)

    def _cut_to_record(self, digests: tuple[bytes, ...], used: Cut | None) -> Cut | None:
        """The last cut up to which the network is like the dense one: the next network may be that too."""
        dense = self._dense_digests
        cut = None if dense is None or digests == dense else self._outline.last_cut(_count_common(digests, dense))
        if cut is None or cut in self._too_large or (used is not None and cut.started <= used.started):
            return None
        return cut


class ScanPrefixes:
    """A prefix for each method of a scan, of which only the last one's keeps outputs in memory."""

    def __init__(self, network: nn.Module, example: Example) -> None:
        """`network`: the dense one."""
        self._network, self._example = network, example
        self._prefixes: dict[str, Prefix | None] = {}

    def of_method(self, method: str) -> Prefix | None:
        """The method's prefix; None for a network that cannot be watched, as scripted modules take no hooks."""
        if method not in self._prefixes:
            self._prefixes[method] = None
            with suppress(Exception):
                self._prefixes[method] = Prefix(self._network, self._example)
        self.free_memory(keep=method)
        return self._prefixes[method]

    def free_memory(self, keep: str | None = None) -> None:
        """Of all methods but `keep`."""
        for method, prefix in self._prefixes.items():
            if method != keep and prefix is not None:
                prefix.free_memory()


def measure_sharing(prefix: Prefix, measure: Callable[[Prefix | None], Outcome]) -> Outcome:
    """A network's outcome, without computing the layers again that earlier networks of the scan had too.

    Args:
        measure: the measurement, with the prefix or without. If it fails with, or a cut is used for the first time, it
            is done without as well.
    """
    shared = None
    with suppress(Exception):  # if the fault is the network's own, the plain measurement below raises it again
        shared = measure(prefix)
    sound = shared is not None and shared.status == "ok"
    if shared is not None and sound and not prefix.doubtful:
        return shared
    if not sound:
        prefix.free_memory()  # there may be too little of it for the plain measurement
    plain = measure(None)
    if sound and shared == plain:
        prefix.trust_used_cut()
    elif plain.status == "ok":
        prefix.retire()  # the next networks would fail, or differ, in the same way
    return plain


def _digest_at(digests: tuple[bytes, ...], cut: Cut) -> bytes:
    return digests[cut.started - 1]


def _count_common(digests: tuple[bytes, ...], dense: tuple[bytes, ...]) -> int:
    """How many modules two networks begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(digests, dense, strict=True)))
