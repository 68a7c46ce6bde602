"""Which points a scan measures, and the curves it draws through them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import ChainCost, even_sites, judged, toy_problem

from search.candidate import failed_outcome
from search.strategies.problem import Scan
from search.strategies.sensitivity import scan_points, scan_proposals, sensitivity_curves


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 9))
def test_points_lie_nearest_to_even_strengths(sizes: list[int], levels: int) -> None:
    sites = even_sites(sizes)
    points = scan_points(sites, levels)
    assert [(p.site, p.level) for p in points] == sorted({(p.site, p.level) for p in points})
    for index, site in enumerate(sites):
        own = [site.strengths[p.level] for p in points if p.site == index]
        assert 0 not in own
        wanted = [site.strengths[-1] * step / (levels + 1) for step in range(1, levels + 1)]
        least = [min(abs(strength - each) for strength in site.strengths) for each in wanted]
        for each, gap in zip(wanted, least, strict=True):  # each wish has a point as near as there can be, or is dense
            assert min(abs(strength - each) for strength in [0.0, *own]) <= gap + 1e-9
        for strength in own:  # and each point is there for a wish
            assert any(abs(strength - each) <= gap + 1e-9 for each, gap in zip(wanted, least, strict=True))


def test_the_dense_network_comes_first_then_one_site_at_a_time() -> None:
    sites = even_sites([8, 6])
    problem = toy_problem(sites, ChainCost([8, 6], [1, 1]), [0.5], scan=Scan(3, 100))
    first, *rest = scan_proposals(problem, "acra-sensitivity")
    assert first.candidate.allocation == {}
    assert [list(p.candidate.allocation) for p in rest] == [["s0"]] * 3 + [["s1"]] * 3
    assert {p.stage for p in (first, *rest)} == {"scan"}
    assert {p.target for p in (first, *rest)} == {None}


def test_curves_by_hand() -> None:
    """Noise that makes a stronger setting look better is taken back; failed points are left out."""
    sites = even_sites([6, 6])
    problem = toy_problem(sites, ChainCost([6, 6], [1, 1]), [0.5], scan=Scan(3, 100))
    # strengths 0, 1/6, ..., 5/6; wanted are 5/24, 10/24 (as far from 1/3 as from 1/2: the gentler) and 15/24
    assert [(p.site, p.level) for p in scan_points(sites, 3)] == [(0, 1), (0, 2), (0, 4), (1, 1), (1, 2), (1, 4)]
    dense = judged(0.9, 0.5)
    first = [judged(0.8, 0.7), judged(0.85, 0.6), judged(0.2, 3.0)]
    second = [judged(0.95, 0.4), failed_outcome("no"), judged(0.9, 0.5)]
    one, two = sensitivity_curves(problem, [dense, *first, *second])
    assert one.score_drop.tolist() == pytest.approx([0, 0.1, 0.1, 0.7])
    assert one.drift.tolist() == pytest.approx([0, 0.2, 0.2, 2.5])
    assert one.strengths.tolist()[0] == 0
    assert two.strengths.tolist() == pytest.approx([0, 1 / 6, 4 / 6])
    assert (two.score_drop == 0).all()
    assert (two.drift == 0).all()
    assert np.all(np.diff(one.strengths) > 0)


def test_a_site_that_breaks_is_as_bad_as_the_worst_from_there_on() -> None:
    sites = even_sites([6, 6])
    problem = toy_problem(sites, ChainCost([6, 6], [1, 1]), [0.5], scan=Scan(3, 100))
    first = [judged(0.8, 0.7), judged(0.85, 0.6), judged(0.2, 3.0)]
    second = [judged(0.9, 0.6), failed_outcome("no"), failed_outcome("not finite")]
    one, two = sensitivity_curves(problem, [judged(0.9, 0.5), *first, *second])
    assert two.strengths.tolist() == pytest.approx([0, 1 / 6, 2 / 6, 4 / 6])
    assert two.drift.tolist() == pytest.approx([0, 0.1, 2.5, 2.5])
    assert two.score_drop.tolist() == pytest.approx([0, 0, 0.7, 0.7])
    assert one.drift.tolist() == pytest.approx([0, 0.2, 0.2, 2.5])


def test_without_a_dense_measurement_there_are_no_curves() -> None:
    problem = toy_problem(even_sites([4]), ChainCost([4], [1]), [0.5], scan=Scan(1, 100))
    with pytest.raises(ValueError, match="out of memory"):
        sensitivity_curves(problem, [failed_outcome("out of memory"), judged(0.5)])
