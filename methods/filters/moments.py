"""Second moments of what layers read, and the least-squares repair of a layer that lost some of its inputs.

For a layer y = W x (a convolution: x is one patch) with inputs of mean μ and covariance Σ, the weights on the inputs S
alone that come nearest to the old outputs in the mean square are

    W' = W Σ[:, S] Σ[S, S]⁻¹        b' = b + W μ − W' μ[S]

(He et al., ICCV 2017, arXiv 1707.06168, for channels). Σ is taken from the dense network, once for all allocations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.graph.narrow import Conv, is_depthwise
from models.errors import UserError
from models.execution.forward_hooks import forward_hooks

# Added to Σ's diagonal, as a share of its mean: inputs that are constant or copies of each other leave Σ singular.
_RIDGE = 1e-3
_SAMPLES = 8192  # patches of a layer, at least
_PER_INPUT = 8  # and so many for every dimension of x
_WIDEST = 8192  # dimensions of x; a matrix of their products takes 0.5 GiB, one of VGG-16's 25,088 features 5 GiB


@dataclass
class Moments:
    """Running sums over the inputs x of one layer; a grouped convolution has one x per group.

    They are of x − origin, the mean of the first batch: of inputs that hardly vary, single precision leaves nothing.
    """

    origin: Tensor  # (groups, d) float32, on the inputs' device
    count: int
    total: Tensor  # (groups, d) float64
    products: Tensor  # (groups, d, d) float64
    shifts: bool = True
    """Whether a constant error of the outputs is made up for, by a bias or by a batch norm measured anew."""

    @property
    def mean(self) -> Tensor:
        """(groups, d)"""
        return self.origin.cpu() + self.total / self.count

    def covariance(self) -> Tensor:
        """(groups, d, d), invertible; about zero instead of the mean where a constant error counts like any other."""
        offset = self.total / self.count
        sigma = self.products / self.count - offset[:, :, None] * offset[:, None, :]
        if not self.shifts:
            sigma = sigma + self.mean[:, :, None] * self.mean[:, None, :]
        diagonal = sigma.diagonal(dim1=1, dim2=2)
        damping = _RIDGE * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
        return sigma + torch.diag_embed(damping.expand_as(diagonal))


def has_measurable_inputs(module: nn.Module) -> bool:
    """Whether the inputs of this layer can be measured: a linear layer or a 2-D convolution, and not too wide."""
    kind = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not is_depthwise(module))
    return kind and module.weight[0].numel() <= _WIDEST  # type: ignore[index]


@torch.no_grad()
def measure_moments(
    network: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Moments]:
    """Moments of what the named layers of `network`, in evaluation mode, read on the batches' images."""
    found: dict[str, Moments] = {}
    loaded = [inputs for inputs, _ in batches]
    hooks = [(network.get_submodule(name), _collector(found, name, len(loaded))) for name in names]
    with forward_hooks(after=hooks):
        for inputs in loaded:
            network(inputs)
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    for name, moments in found.items():
        moments.shifts = normed or network.get_submodule(name).bias is not None
    return found


def _collector(
    found: dict[str, Moments], name: str, batches: int
) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    generator = torch.Generator().manual_seed(0)

    def hook(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        width = module.weight[0].numel()  # type: ignore[index]
        x = _rows(module, inputs[0], -(-max(_SAMPLES, _PER_INPUT * width) // batches), generator)
        if not bool(x.isfinite().all()):
            raise UserError(f"layer {name!r} reads values that are not finite; check the images and the weights")
        if name not in found:
            found[name] = _none_yet(x.mean(1))
        moments = found[name]
        x = x - moments.origin[:, None]
        moments.count += x.shape[1]
        moments.total += x.sum(1, dtype=torch.float64).cpu()
        moments.products += (x.mT @ x).double().cpu()

    return hook


def _none_yet(origin: Tensor) -> Moments:
    zeros = torch.zeros(origin.shape, dtype=torch.float64)
    return Moments(origin, 0, zeros, zeros.new_zeros(*origin.shape, origin.shape[1]))


def _rows(module: nn.Module, inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` of the layer's inputs x, (groups, count, d) float32, drawn at random."""
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(-1, inputs.shape[-1])
        picked = torch.randperm(len(rows), generator=generator)[:count].to(rows.device)
        return rows[picked][None].float()
    assert isinstance(module, nn.Conv2d)
    return _patches(module, inputs.float(), count, generator)


def _patches(conv: nn.Conv2d, inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random patches of a convolution's inputs; never all of them at once, which would be Kh·Kw times the inputs."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = functional.pad(inputs, conv._reversed_padding_repeated_twice, mode=mode)
    n, channels, *size = padded.shape
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    places = [(s - r - 1) // step + 1 for s, r, step in zip(size, reach, conv.stride, strict=True)]
    picked = torch.randint(0, n * places[0] * places[1], (count,), generator=generator).to(inputs.device)
    image, row, column = picked // (places[0] * places[1]), picked // places[1] % places[0], picked % places[1]
    offsets = [d * torch.arange(k, device=inputs.device) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    rows = (row * conv.stride[0])[:, None, None] + offsets[0][:, None]
    columns = (column * conv.stride[1])[:, None, None] + offsets[1]
    found = padded.permute(0, 2, 3, 1)[image[:, None, None], rows, columns]  # (count, Kh, Kw, C)
    found = found.permute(3, 0, 1, 2).unflatten(0, (conv.groups, channels // conv.groups))
    return found.permute(0, 2, 1, 3, 4).flatten(2)  # (groups, count, C/groups · Kh · Kw)


def grouped_weights(module: nn.Module) -> Tensor:
    """The weights that act on x, (groups, outputs per group, d) float64 on the CPU."""
    weight = module.weight.detach().cpu().double().flatten(1)  # type: ignore[operator]
    return weight.unflatten(0, (getattr(module, "groups", 1), -1))


def columns_of(module: nn.Module) -> int:
    """How many neighbouring entries of x belong to one input channel."""
    return module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1


@torch.no_grad()
def repair_layer(small: nn.Module, dense: nn.Module, moments: Moments, stays_in: Tensor, stays_out: Tensor) -> None:
    """Give `small`, a narrowed copy of `dense`, the weights nearest to the dense outputs; in place.

    Args:
        stays_in: (input channels,) bool, which of them `small` still has; groups keep equally many.
        stays_out: (output channels,) bool, likewise.
    """
    whole, sigma, mean = grouped_weights(dense), moments.covariance(), moments.mean
    groups = len(whole)
    inner = stays_in.view(groups, -1).repeat_interleave(columns_of(dense), 1)  # (groups, d)
    outer = stays_out.view(groups, -1)
    fitted, shifts = [], []
    for full, s, mu, keep, rows in zip(whole, sigma, mean, inner, outer, strict=True):
        full = full[rows]
        factor = torch.linalg.cholesky(s[keep][:, keep])
        fitted.append(torch.cholesky_solve(s[keep] @ full.T, factor).T)
        shifts.append(full @ mu - fitted[-1] @ mu[keep])
    assert isinstance(small, nn.Linear | Conv)
    small.weight.copy_(torch.cat(fitted).view_as(small.weight))
    if small.bias is not None:
        small.bias.add_(torch.cat(shifts).to(small.bias))


def channel_columns(index: Iterable[int], channels: int, module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """For each input channel in `index`: its group and its columns of that group's x."""
    width, size = channels // getattr(module, "groups", 1), columns_of(module)
    for each in index:
        yield each // width, torch.arange(each % width * size, (each % width + 1) * size)
