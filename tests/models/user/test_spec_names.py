"""Sentences call what was given as objects by words that the user knows; all else keeps its name."""

from __future__ import annotations

import pytest

from models.user.spec_names import data_name, network_name, network_subject


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("npz:results/given/arrays-d4407e552f41042f.npz", "the arrays given"),
        ("npz:/somewhere/given/CIFAR10-d4407e552f41042f.npz", "the data sets given (CIFAR10)"),
        ("npz:/somewhere/given/arrays.npz", None),
        ("npz:/somewhere/arrays-d4407e552f41042f.npz", None),
        ("imagefolder:given/arrays-d4407e552f41042f.npz", None),
        ("digits", None),
    ],
)
def test_data(spec: str, words: str | None) -> None:
    assert data_name(spec) == (words or spec)


def test_networks() -> None:
    assert network_subject("object:my.Net@7a16e144a6b3") == "the network given (my.Net)"
    assert network_name("object:my.Net@7a16e144a6b3") == "the network given (my.Net)"
    assert (network_subject("resnet20"), network_name("a@b.py:f")) == ("network resnet20", "a@b.py:f")
