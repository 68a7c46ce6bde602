"""What is read back from a device, or made on the host, is noted."""

from __future__ import annotations

import torch

from models.execution.host_reads import HostReads


def test_what_is_made_on_the_host_is_seen() -> None:
    x = torch.empty(3, 4, device="meta")
    with HostReads() as reads:
        x * 2.0 + torch.tensor(1.0)  # numbers are arguments of kernels
    assert not reads.operators
    with HostReads() as reads:
        x.index_select(0, torch.tensor([0, 1]))
    assert reads.operators == {"aten::index_select"}
    with HostReads() as reads:
        torch.tensor([1.0, 2.0]).to("meta")
    assert reads.operators == {"aten::_to_copy"}
