"""What the networks of a scan have in common with the dense one: the layers before the first that differs.

A sensitivity scan changes one site at a time. Up to that site every network computes, on the same images, what the
dense one does. The output of the last cut before it is kept and stands in for all that lies before. Outcomes are what
they are without, to the bit; a network may be made so that this does not hold, so each cut's first use is to be held
against a plain measurement.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile

import torch
from torch import Tensor, nn

from search.judge.cuts import Cut, Outline, Recorded, record_cut, replay_cut

HELD = 2**30  # bytes of outputs that are kept at most
SHARE = 0.25  # and of a GPU's free memory


class Prefix:
    """Remembers what networks computed up to a cut, for those that come after them."""

    def __init__(self, dense: nn.Module, example: Tensor) -> None:
        self._outline, self._device = Outline(dense, example), example.device
        self._dense = self._outline.digests(dense)
        self._kept: dict[tuple[Cut, bytes, Hashable], Recorded] = {}  # what was used last and what was added then
        self._too_large: set[Cut] = set()
        self._retired = False
        self._trusted: set[Cut] = set()
        self.used: Cut | None = None
        """What stood in for the first layers of the last network."""

    @contextmanager
    def shared(self, network: nn.Module, calls: Hashable) -> Iterator[None]:
        """While this lasts, `network`'s first layers are not computed if they were before.

        Args:
            calls: what decides how often and on which images the network is called, and nothing else.
        """
        digests = None if self._retired else self._outline.digests(network)
        self.used = None
        if digests is None:
            yield
            return
        known = self._known(digests, calls)
        self.used = None if known is None else known[0]
        wanted = self._worth_keeping(digests, known)
        with ExitStack() as stack, torch.no_grad():
            if known is not None:
                stack.enter_context(replay_cut(network, known[0], self._kept[known]))
            if wanted is not None:
                self._kept = {} if known is None else {known: self._kept[known]}
                room = self._room()
                recorded = stack.enter_context(record_cut(network, wanted, room))
            yield
        if wanted is not None and recorded.whole:
            self._kept[wanted, _digest_at(digests, wanted), calls] = recorded
        elif wanted is not None and known is None:
            self._too_large.add(wanted)

    @property
    def doubtful(self) -> bool:
        """Whether what was used last has not been held against a plain measurement yet."""
        return self.used is not None and self.used not in self._trusted

    def trust(self) -> None:
        """A plain measurement came out the same."""
        if self.used is not None:
            self._trusted.add(self.used)

    def _room(self) -> float:
        """Bytes that may be kept beside what is kept already."""
        left: float = HELD - sum(each.nbytes for each in self._kept.values())
        if self._device.type == "cuda":
            left = min(left, SHARE * torch.cuda.mem_get_info(self._device)[0])
        return left

    def retire(self) -> None:
        """Share nothing any more: it does not hold for these networks, or there is no memory for it."""
        self.forget()
        self._retired = True

    def forget(self) -> None:
        """Give the memory back."""
        self._kept.clear()

    def _known(self, digests: tuple[bytes, ...], calls: Hashable) -> tuple[Cut, bytes, Hashable] | None:
        """The last cut up to which an earlier network was the same and is remembered."""
        found = [key for key in self._kept if key[1:] == (_digest_at(digests, key[0]), calls)]
        return max(found, key=lambda key: key[0].started, default=None)

    def _worth_keeping(self, digests: tuple[bytes, ...], known: tuple[Cut, bytes, Hashable] | None) -> Cut | None:
        """The last cut up to which it is like the dense network, as the next one may be too."""
        dense = self._dense
        cut = None if dense is None or digests == dense else self._outline.last_cut(_count_common(digests, dense))
        if cut is None or cut in self._too_large or (known is not None and cut.started <= known[0].started):
            return None
        return cut


def _digest_at(digests: tuple[bytes, ...], cut: Cut) -> bytes:
    return digests[cut.started - 1]


def _count_common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    """How many modules two networks begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True)))
