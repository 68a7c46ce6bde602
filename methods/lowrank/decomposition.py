"""Factors of one layer's weights, and the damage that every pair of ranks does, in closed form.

A layer y = W x reads x, one patch of C channels at K taps, with second moment S; errors e of its outputs matter by
eᵀ G e (`methods/moments`). With Hᵀ H = G the damage of other weights W' is ½ ‖H (W − W') S^½‖².

Outputs. The best W' of rank r keeps the first r left singular vectors U of H W S^½, W' = H⁻¹ Uᵣ Uᵣᵀ H W; what it loses
is the sum of the other squared singular values (Zhang et al., CVPR 2015, arXiv 1411.4229).

Inputs. The channels of every tap are projected by the same P (r₁, C). With the taps' mean second moment S_c = L Lᵀ, its
rows are the first right singular vectors V of the taps' matrices H Wₖ L, stacked: P = Vᵀ L⁻¹ (Tucker's factor of the
input mode, Kim et al., ICLR 2016, arXiv 1511.06530, in the metric of the data). The weights behind it are then fitted
by least squares to the dense outputs, taps and all, and cut to rank r₂ as above.

P of a smaller r₁ are the first rows of P for all channels. With the patch's projections ordered channel by channel and
their moment R Rᵀ, those of r₁ channels lead, and the Cholesky factor of a leading block is the leading block of R. So
one factorisation serves all r₁.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_RIDGE = 1e-9  # on the channels' moment, relative to its mean: S is damped where it is measured


@dataclass(frozen=True)
class Factors:
    """W' = outputs · core · (inputs ⊗ I): absent matrices are identities."""

    inputs: Tensor | None  # (r1, C)
    core: Tensor  # (r2, r1, K)
    outputs: Tensor | None  # (N, r2)

    def product(self) -> Tensor:
        """W', (N, C, K)."""
        weight = self.core if self.inputs is None else torch.einsum("ork,rc->ock", self.core, self.inputs)
        return weight if self.outputs is None else torch.einsum("no,ock->nck", self.outputs, weight)

    def orthonormal(self) -> Factors:
        """The same product, with orthonormal rows of `inputs` and columns of `outputs`: the core has all the scale."""
        inputs, core, outputs = self.inputs, self.core, self.outputs
        if inputs is not None:
            basis, triangle = torch.linalg.qr(inputs.mT)
            inputs, core = basis.mT, torch.einsum("ork,sr->osk", core, triangle)
        if outputs is not None:
            outputs, triangle = torch.linalg.qr(outputs)
            core = torch.einsum("po,ork->prk", triangle, core)
        return Factors(inputs, core, outputs)


class Decomposition:
    """The weights of a layer in the metrics of its inputs and of its outputs; all float64 on the CPU."""

    def __init__(
        self,
        weight: Tensor,
        moment: Tensor | None,
        root: Tensor,
        inverse: Tensor,
        output_moment: Tensor | None = None,
    ) -> None:
        """
        Args:
            weight: W, (N, C, K)
            moment: S, (C · K, C · K), invertible, channel by channel; None where it would be too large.
            root, inverse: H with Hᵀ H = G, and H⁻¹, (N, N).
            output_moment: W S Wᵀ, (N, N), where S is None: `in_rank` is then C.
        """
        self._outputs, self._channels, self._taps = weight.shape
        self._weight, self._moment, self._root, self._inverse = weight.flatten(1), moment, root, inverse
        if output_moment is None:
            self._gram = self._products @ self._weighted.mT  # H W S Wᵀ Hᵀ
        else:
            self._gram = root @ output_moment @ root.mT
        self.energy = float(self._gram.trace())
        """tr(H W S Wᵀ Hᵀ): twice the damage of losing the layer whole."""

    def damages(self, in_ranks: Sequence[int]) -> Tensor:
        """What ranks lose, (n, N): entry [i, r − 1] for the first in_ranks[i] input directions and r of the outputs."""
        narrow = [rank for rank in in_ranks if rank < self._channels]
        captured = self._capture_outputs(max(narrow))[1] if narrow else None
        tables = []
        for rank in in_ranks:
            gram = self._gram
            if rank < self._channels:
                assert captured is not None
                rows = captured[: rank * self._taps]
                gram = rows.mT @ rows
            tables.append(self.energy - torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).cumsum(0))
        return torch.stack(tables).clamp(min=0) / 2

    def factors(self, in_rank: int, out_rank: int) -> Factors:
        """The layer through `in_rank` directions of its input channels and `out_rank` of its outputs."""
        inputs, core, gram = None, self._weight, self._gram
        if in_rank < self._channels:
            root, captured = self._capture_outputs(in_rank)
            inputs = self._input_basis[:in_rank]
            core = self._inverse @ torch.linalg.solve_triangular(root.mT, captured, upper=True).mT
            gram = captured.mT @ captured
        shape = (-1, in_rank, self._taps)
        if out_rank == self._outputs:
            return Factors(inputs, core.view(shape), None)
        vectors = torch.linalg.eigh(gram)[1].flip(1)[:, :out_rank]
        return Factors(inputs, (vectors.mT @ self._root @ core).view(shape), self._inverse @ vectors)

    def lost_mean(self, factors: Factors, mean: Tensor) -> Tensor:
        """What is lost of outputs' mean, (N,), where `factors` have all input directions: y' = H⁻¹ Uᵣ Uᵣᵀ H y."""
        assert factors.inputs is None
        if factors.outputs is None:
            return torch.zeros_like(mean)
        return mean - factors.outputs @ (factors.outputs.mT @ (self._root.mT @ (self._root @ mean)))

    @cached_property
    def _weighted(self) -> Tensor:
        """H W, (N, C · K)."""
        return self._root @ self._weight

    @cached_property
    def _products(self) -> Tensor:
        """H W S, (N, C · K)."""
        assert self._moment is not None
        return self._weighted @ self._moment

    @cached_property
    def _input_basis(self) -> Tensor:
        """P of all channels, (C, C)."""
        assert self._moment is not None
        blocks = self._moment.view(self._channels, self._taps, self._channels, self._taps)
        moment = blocks.diagonal(dim1=1, dim2=3).mean(2)
        root = torch.linalg.cholesky(moment + _RIDGE * moment.diagonal().mean() * torch.eye(len(moment)))
        weights = self._weighted.view(-1, self._channels, self._taps).transpose(1, 2).flatten(0, 1) @ root  # (N · K, C)
        vectors = torch.linalg.eigh(weights.mT @ weights)[1].flip(1)
        return torch.linalg.solve_triangular(root.mT, vectors, upper=True).mT

    def _capture_outputs(self, in_rank: int) -> tuple[Tensor, Tensor]:
        """R of the projected patches, lower triangular, and R⁻¹ (P ⊗ I) S Wᵀ H, (in_rank · K, N)."""
        assert self._moment is not None
        basis = self._input_basis[:in_rank]
        shape = (self._channels, self._taps, -1)
        projected = torch.einsum("rc,ckd->rkd", basis, self._moment.view(shape)).flatten(0, 1)  # (P ⊗ I) S
        moment = torch.einsum("rc,ckd->rkd", basis, projected.mT.reshape(shape)).flatten(0, 1)
        root = torch.linalg.cholesky(moment + _RIDGE * moment.diagonal().mean() * torch.eye(len(moment)))
        outputs = torch.einsum("rc,ckn->rkn", basis, self._products.mT.reshape(shape)).flatten(0, 1)
        return root, torch.linalg.solve_triangular(root, outputs, upper=False)
