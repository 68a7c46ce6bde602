"""Hooks that last for a block."""

import pytest
import torch
from torch import nn

from models.execution.forward_hooks import forward_hooks, module_path


def test_hooks_are_called_in_the_block_and_gone_after_it():
    network, calls = nn.Sequential(nn.ReLU(), nn.Identity()), []
    before = [(network[1], lambda module, inputs: calls.append(("before", module)))]
    after = [(network[0], lambda module, inputs, output: calls.append(("after", module)))]
    with forward_hooks(before=before, after=after):
        network(torch.ones(2))
    network(torch.ones(2))
    assert calls == [("after", network[0]), ("before", network[1])]


def test_an_error_leaves_no_hook_and_a_foreign_hook_stays():
    network, calls = nn.ReLU(), []
    network.register_forward_hook(lambda module, inputs, output: calls.append("foreign"))
    with (
        pytest.raises(RuntimeError, match="of the block"),
        forward_hooks(after=[(network, lambda *_: calls.append(1))]),
    ):
        raise RuntimeError("of the block")
    network(torch.ones(2))
    assert calls == ["foreign"]


def test_an_output_can_be_replaced():
    network = nn.Identity()
    with forward_hooks(after=[(network, lambda module, inputs, output: output + 1)]):
        assert network(torch.zeros(2)).tolist() == [1, 1]
    assert network(torch.zeros(2)).tolist() == [0, 0]


def test_the_path_names_what_runs_and_passes_scripted_modules_over():
    scripted = torch.jit.script(nn.ReLU())
    network, path, seen = nn.Sequential(nn.Sequential(nn.Identity()), scripted), [""], []
    hook = (network[0][0], lambda *_: seen.append(list(path)))
    with module_path(network, path), forward_hooks(before=[hook]):
        network(torch.ones(2))
    assert seen == [["", "", "0", "0.0"]]
    assert path == [""]


def test_arguments_by_keyword_are_seen_as_the_others():
    class Calling(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(1, 2)

        def forward(self, x):
            return self.norm(input=x)

    network, seen, images = Calling(), [], torch.ones(1, 2, 3)
    before = [(network.norm, lambda module, inputs: seen.append(inputs))]
    after = [(network.norm, lambda module, inputs, output: seen.append(inputs))]
    with forward_hooks(before=before, after=after):
        network(images)
    assert len(seen) == 2
    assert all(len(inputs) == 1 and inputs[0] is images for inputs in seen)
