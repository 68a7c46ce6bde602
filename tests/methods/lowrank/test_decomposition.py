"""Factors and their damages against numpy's SVD, the formula of the damage, and other factors of the same ranks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from methods.lowrank.decomposition import Decomposition

N, C, K = 7, 5, 3


def _random_moment(size: int, generator: torch.Generator) -> Tensor:
    """Positive definite, with eigenvalues over four orders of magnitude."""
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return rotation * torch.logspace(0, -4, size, dtype=torch.float64) @ rotation.T


class Case:
    """Weights W with a moment S of their inputs and G of their outputs."""

    def __init__(self, seed: int, taps: int = K) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(N, C, taps, generator=generator, dtype=torch.float64)
        self.inputs = _random_moment(C * taps, generator)  # S
        self.outputs = _random_moment(N, generator)  # G
        root = torch.from_numpy(np.real(scipy.linalg.sqrtm(self.outputs.numpy())))
        self.decomposition = Decomposition(self.weight, self.inputs, root, torch.linalg.inv(root))

    def damage(self, other: Tensor) -> float:
        """½ tr(G Δ S Δᵀ) of other weights, (N, C, K)."""
        lost = (self.weight - other).flatten(1)
        return float(torch.trace(self.outputs @ lost @ self.inputs @ lost.T)) / 2

    def least_damage(self, basis: Tensor, rank: int, seed: int) -> float:
        """Of weights A B basis, A (N, rank): alternating least squares from a random start; `basis` (m, C · K)."""
        generator = torch.Generator().manual_seed(seed)
        weight = self.weight.flatten(1)
        moment, crossed = basis @ self.inputs @ basis.T, weight @ self.inputs @ basis.T
        right = torch.randn(rank, len(basis), generator=generator, dtype=torch.float64)
        for _ in range(400):
            left = crossed @ right.T @ torch.linalg.inv(right @ moment @ right.T)
            metric = left.T @ self.outputs
            right = torch.linalg.solve(metric @ left, metric @ crossed) @ torch.linalg.inv(moment)
        return self.damage((left @ right @ basis).view_as(self.weight))


@pytest.fixture(params=[0, 1])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_damages_of_output_ranks_are_the_singular_values_left_out(case: Case) -> None:
    root = np.linalg.cholesky(case.outputs.numpy()).T
    values = np.linalg.svd(root @ case.weight.flatten(1).numpy() @ np.linalg.cholesky(case.inputs.numpy()))[1]
    expected = [(values[rank:] ** 2).sum() / 2 for rank in range(1, N + 1)]
    np.testing.assert_allclose(case.decomposition.damages([C])[0], expected, rtol=1e-6, atol=1e-9)
    assert case.decomposition.energy / 2 == pytest.approx(case.damage(torch.zeros_like(case.weight)))


def test_damages_of_all_ranks_are_those_of_their_factors(case: Case) -> None:
    table = case.decomposition.damages(range(1, C + 1))
    assert table.shape == (C, N)
    for in_rank in range(1, C + 1):
        for out_rank in range(1, N + 1):
            factors = case.decomposition.factors(in_rank, out_rank)
            assert (factors.inputs is None) == (in_rank == C)
            assert (factors.outputs is None) == (out_rank == N)
            assert factors.core.shape == (out_rank, in_rank, K)
            predicted = float(table[in_rank - 1, out_rank - 1])
            assert predicted == pytest.approx(case.damage(factors.product()), rel=1e-4, abs=1e-6)
    assert bool((table.diff(dim=0) <= 1e-12).all())
    assert bool((table.diff(dim=1) <= 1e-12).all())


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_no_weights_of_the_same_rank_do_less_damage(case: Case, rank: int) -> None:
    whole = torch.eye(C * K, dtype=torch.float64)
    damage = case.damage(case.decomposition.factors(C, rank).product())
    least = min(case.least_damage(whole, rank, seed) for seed in range(3))
    assert damage <= least * (1 + 1e-9)
    assert least <= damage * 1.01
    generator = torch.Generator().manual_seed(rank)
    factors = case.decomposition.factors(C, rank)
    assert factors.outputs is not None
    for size in (1.0, 0.1, 1e-2, 1e-3):
        for _ in range(50):
            left, right = (
                matrix + size * torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
                for matrix in (factors.outputs, factors.core.flatten(1))
            )
            assert case.damage((left @ right).view_as(case.weight)) >= damage


@pytest.mark.parametrize("ranks", [(1, 2), (3, 2), (4, 6), (4, 7)])
def test_weights_behind_an_input_basis_are_the_best_for_it(case: Case, ranks: tuple[int, int]) -> None:
    in_rank, out_rank = ranks
    factors = case.decomposition.factors(in_rank, out_rank)
    assert factors.inputs is not None
    basis = torch.kron(factors.inputs, torch.eye(K, dtype=torch.float64))
    damage = case.damage(factors.product())
    least = min(case.least_damage(basis, min(out_rank, in_rank * K), seed) for seed in range(3))
    assert damage == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize("in_rank", [1, 2, 4])
def test_input_basis_is_that_of_the_taps_stacked(case: Case, in_rank: int) -> None:
    blocks = case.inputs.view(C, K, C, K).numpy()
    root = np.linalg.cholesky(sum(blocks[:, tap, :, tap] for tap in range(K)) / K)
    stacked = np.concatenate(
        [np.real(scipy.linalg.sqrtm(case.outputs.numpy())) @ case.weight[:, :, tap].numpy() @ root for tap in range(K)]
    )
    expected = np.linalg.svd(stacked)[2][:in_rank] @ np.linalg.inv(root)
    inputs = case.decomposition.factors(in_rank, N).inputs
    assert inputs is not None
    angles = scipy.linalg.subspace_angles(inputs.numpy().T, expected.T)
    assert angles.max() < 1e-3


def test_of_a_single_tap_both_sides_are_one() -> None:
    """A rank of the inputs is then a rank of the matrix: both are the truncated SVD in both metrics."""
    case = Case(5, taps=1)
    table = case.decomposition.damages(range(1, C + 1))
    torch.testing.assert_close(table[:, -1], case.decomposition.damages([C])[0, :C], rtol=1e-5, atol=1e-9)
    for rank in range(1, C):
        narrow, low = case.decomposition.factors(rank, N), case.decomposition.factors(C, rank)
        torch.testing.assert_close(narrow.product(), low.product(), rtol=1e-3, atol=1e-3)


def test_full_ranks_give_the_weights_back(case: Case) -> None:
    torch.testing.assert_close(case.decomposition.factors(C, N).product(), case.weight)
    assert float(case.decomposition.damages([C])[0, -1]) == pytest.approx(0, abs=1e-9)


def test_without_metrics_it_is_the_plain_svd() -> None:
    weight = torch.randn(N, C, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eye = torch.eye(N, dtype=torch.float64)
    decomposition = Decomposition(weight, torch.eye(C * K, dtype=torch.float64), eye, eye)
    left, values, right = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)
    for rank in range(1, N):
        truncated = left[:, :rank] * values[:rank] @ right[:rank]
        np.testing.assert_allclose(decomposition.factors(C, rank).product().flatten(1), truncated, atol=1e-9)
