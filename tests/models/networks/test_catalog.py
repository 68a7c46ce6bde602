"""Networks by name: sizes from closed forms and from the literature, names, and every refusal."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.errors import UserError
from models.networks.catalog import build_network, network_names, own_names, register


def _macs(network: nn.Module, *shape: int) -> int:
    """Multiply-accumulates for one image, by PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.randn(1, *shape))
    return counter.get_total_flops() // 2


def _params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnet_sizes(depth: int) -> None:
    """Section 4.2 of He et al.: 6n + 2 layers, 2n of each width, option-A shortcuts without parameters."""
    n = (depth - 2) // 6
    convs = 9 * (3 * 16 + 2 * n * 16**2 + (16 * 32 + (2 * n - 1) * 32**2) + (32 * 64 + (2 * n - 1) * 64**2))
    norms = 2 * (16 * (2 * n + 1) + 32 * 2 * n + 64 * 2 * n)
    network = build_network(f"resnet{depth}", classes=10)
    assert _params(network) == convs + norms + 64 * 10 + 10
    macs = 9 * (
        32**2 * (3 * 16 + 2 * n * 16**2)
        + 16**2 * (16 * 32 + (2 * n - 1) * 32**2)
        + 8**2 * (32 * 64 + (2 * n - 1) * 64**2)
    )
    assert _macs(network, 3, 32, 32) == macs + 640


@pytest.mark.parametrize(
    ("name", "millions_macs", "millions_params"),
    [
        ("resnet56", 125.5, 0.85),
        ("resnet110", 252.9, 1.73),
        ("vgg16-cifar", 313.2, 14.72),
        ("vgg19-cifar", 398.1, 20.04),
        ("densenet40", 282.9, 1.06),
    ],
)
def test_sizes_that_papers_report(name: str, millions_macs: float, millions_params: float) -> None:
    network = build_network(name, classes=10)
    assert round(_macs(network, 3, 32, 32) / 1e6, 1) == millions_macs
    assert round(_params(network) / 1e6, 2) == millions_params


def test_vgg_is_torchvisions_body() -> None:
    ours = build_network("vgg11-cifar", classes=10)
    theirs = torchvision.models.vgg11_bn(weights=None)
    widths = [module.out_channels for module in theirs.features if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in ours.modules() if isinstance(module, nn.Conv2d)] == widths


def test_resnet_state_names_are_the_checkpoints() -> None:
    names = set(build_network("resnet20", classes=10).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{part}" for part in norm)}
    for block in (f"layer{s}.{i}" for s in (1, 2, 3) for i in range(3)):
        expected |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        expected |= {f"{block}.bn{k}.{part}" for k in (1, 2) for part in norm}
    assert names == expected


@pytest.mark.parametrize("name", own_names())
@pytest.mark.parametrize(("classes", "channels", "size"), [(7, 1, 32), (100, 3, 40)])
def test_ours_take_any_classes_and_channels(name: str, classes: int, channels: int, size: int) -> None:
    network = build_network(name, classes=classes, channels=channels).eval()
    with torch.no_grad():
        output = network(torch.randn(2, channels, size, size))
    assert output.shape == (2, classes)
    assert output.isfinite().all()


@pytest.mark.parametrize("size", [8, 28])
def test_small_takes_both_digit_sizes(size: int) -> None:
    assert build_network("small", classes=10, channels=1)(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_names_are_ours_and_all_of_torchvision() -> None:
    names = network_names()
    assert len(names) == len(set(names))
    assert names == [*own_names(), *sorted(torchvision.models.list_models(module=torchvision.models))]
    assert {"resnet20", "vgg16-cifar", "densenet40", "small", "resnet18", "vgg16"} <= set(names)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1", "mobilenet_v2"])
def test_torchvisions_own(name: str) -> None:
    network = build_network(name, classes=12).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 64)).shape == (1, 12)


def test_unknown_name_lists_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown network 'resnet21'; did you mean .*resnet20"):
        build_network("resnet21", classes=10)


def test_torchvision_refuses_grey() -> None:
    with pytest.raises(UserError, match="resnet18 takes images of 3 channels but the data has 1"):
        build_network("resnet18", classes=10, channels=1)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'small' is registered already"):
        register("small")(nn.Module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("signature", "given"),
    [
        ("classes", {"classes": 5}),
        ("num_classes, in_channels", {"num_classes": 5, "in_channels": 1}),
        ("*, channels=3", {"channels": 1}),
        ("pretrained=False, **options", {"options": {"num_classes": 5}, "pretrained": False}),
        ("classes, **options", {"classes": 5, "options": {}}),
        ("", {}),
    ],
)
def test_users_function_gets_what_it_names(tmp_path: Path, signature: str, given: dict[str, object]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        f"def build({signature}):\n"
        "    network = nn.Identity()\n"
        "    network.given = {k: v for k, v in locals().items() if k not in ('network', 'nn')}\n"
        "    return network\n"
    )
    assert build_network(f"{tmp_path}/net.py:build", classes=5, channels=1).given == given


def test_users_function_must_return_a_network(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build():\n    return 3\n")
    with pytest.raises(UserError, match=r"returned a int; it must return a torch\.nn\.Module"):
        build_network(f"{tmp_path}/net.py:build", classes=5)


def test_users_function_that_fails_tells_its_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(classes):\n    width = 0\n    return classes / width\n")
    with pytest.raises(UserError, match=r"failed: ZeroDivisionError: division by zero \(line 3\)"):
        build_network(f"{tmp_path}/net.py:build", classes=5)
