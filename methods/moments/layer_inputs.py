"""Mean and covariance of the inputs x of layers y = W x, measured on the dense network.

Of a convolution, x is one patch, the channels one after the other. Of a transposed convolution, x are the channels at
one position, and y is what they add to all outputs that they reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.graph.narrow import CONVOLUTIONS, TRANSPOSED, Conv, is_depthwise
from models.errors import UserError
from models.execution.forward_hooks import forward_hooks
from models.execution.tensor_leaves import first_tensor
from models.tasks.objective import Batch, Objective

# Added to Σ's diagonal, as a share of its mean: inputs that are constant or copies of each other leave Σ singular.
_RIDGE = 1e-3
SAMPLES = 8192  # least number of patches of a layer
PER_DIMENSION = 8  # and least number for every dimension of x
# Most dimensions of x: a matrix of their products takes 0.5 GiB, one of VGG-16's 25,088 features would take 5 GiB.
_WIDEST = 8192


@dataclass
class Moments:
    """Running sums over the inputs x of one layer, or over its outputs; a grouped convolution has one x per group.

    They are taken of x − origin, the mean of the first batch: inputs that hardly vary would otherwise lose all digits
    of their covariance in single precision.
    """

    origin: Tensor  # (groups, d) float32, on the inputs' device
    count: int
    total: Tensor  # (groups, d) float64
    products: Tensor  # (groups, d, d) float64
    shifts: bool = True
    """Whether a constant error of the outputs is corrected later, by a bias or by a batch norm measured anew."""

    @property
    def mean(self) -> Tensor:
        """(groups, d)"""
        return self.origin.cpu() + self.total / self.count

    def covariance(self) -> Tensor:
        """(groups, d, d), invertible; the second moment about zero where no bias corrects a constant error."""
        offset = self.total / self.count
        sigma = self.products / self.count - offset[:, :, None] * offset[:, None, :]
        if not self.shifts:
            sigma = sigma + self.mean[:, :, None] * self.mean[:, None, :]
        # The clamp keeps Σ invertible where all inputs are constant.
        diagonal = sigma.diagonal(dim1=1, dim2=2)
        damping = _RIDGE * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
        return sigma + torch.diag_embed(damping.expand_as(diagonal))


def has_measurable_inputs(module: nn.Module) -> bool:
    """Whether the module is a linear layer or a convolution, and not too wide for a covariance matrix."""
    kind = isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)) and not is_depthwise(module)
    return kind and input_width(module) <= _WIDEST


def input_width(module: nn.Module) -> int:
    """d, the dimensions of x."""
    assert isinstance(module, nn.Linear | Conv)
    if isinstance(module, Conv) and module.transposed:
        return module.in_channels // module.groups
    return module.weight[0].numel()


@torch.no_grad()
def measure_moments(
    network: nn.Module, names: Iterable[str], batches: Iterable[Batch], objective: Objective
) -> dict[str, Moments]:
    """Moments of the inputs of the named layers of `network`, which is in evaluation mode, on the batches."""
    moments_of: dict[str, Moments] = {}
    loaded = list(batches)
    hooks = [(network.get_submodule(name), _collect_moments(moments_of, name, len(loaded))) for name in names]
    with forward_hooks(after=hooks):
        for batch in loaded:
            objective.forward(network, batch)
    for name, moments in moments_of.items():
        moments.shifts = corrects_shifts(network, name)
    return moments_of


def corrects_shifts(network: nn.Module, name: str) -> bool:
    """Whether a constant error of a layer's outputs can be corrected: by its bias, or by a batch norm measured anew."""
    return has_batch_norm(network) or network.get_submodule(name).bias is not None


def has_batch_norm(network: nn.Module) -> bool:
    """Whether batch norm is there to be measured anew on a compressed network."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def _collect_moments(
    moments_of: dict[str, Moments], name: str, batches: int
) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    generator = torch.Generator().manual_seed(0)

    def add_inputs(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        count = -(-max(SAMPLES, PER_DIMENSION * input_width(module)) // batches)
        x = _sample_inputs(module, first_tensor(inputs), count, generator)
        if not bool(x.isfinite().all()):
            raise UserError(f"layer {name!r} reads values that are not finite; check the images and the weights")
        add_samples(moments_of, name, x)

    return add_inputs


def add_samples(moments_of: dict[str, Moments], name: str, x: Tensor) -> None:
    """Add samples, (groups, count, d) float32, to the sums of a layer, which begin with its first."""
    if name not in moments_of:
        origin = x.mean(1)
        zeros = torch.zeros(origin.shape, dtype=torch.float64)
        moments_of[name] = Moments(origin, 0, zeros, zeros.new_zeros(*origin.shape, origin.shape[1]))
    moments = moments_of[name]
    x = x - moments.origin[:, None]
    moments.count += x.shape[1]
    moments.total += x.sum(1, dtype=torch.float64).cpu()
    moments.products += (x.mT @ x).double().cpu()


def _sample_inputs(module: nn.Module, inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` of the layer's inputs x, (groups, count, d) float32, drawn at random."""
    assert isinstance(module, nn.Linear | Conv)
    if isinstance(module, Conv) and not module.transposed:
        return sample_patches(module, inputs.float(), count, generator)
    groups = 1
    if isinstance(module, Conv):
        inputs, groups = inputs.movedim(-1 - len(module.kernel_size), -1), module.groups
    flat = inputs.reshape(-1, inputs.shape[-1])
    picked = torch.randperm(len(flat), generator=generator)[:count].to(flat.device)
    return flat[picked].unflatten(1, (groups, -1)).transpose(0, 1).float()


def sample_patches(conv: Conv, inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random patches of a convolution's inputs, gathered alone, as all patches would be Kh·Kw times the inputs.

    Returns (groups, count, d), the C/groups channels of a patch one after the other.
    """
    dims = len(conv.kernel_size)
    if inputs.dim() == dims + 1:
        inputs = inputs[None]  # without a batch
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = functional.pad(inputs, conv._reversed_padding_repeated_twice, mode=mode)
    n, channels, *size = padded.shape
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    places = [(s - r - 1) // step + 1 for s, r, step in zip(size, reach, conv.stride, strict=True)]
    picked = torch.randint(0, n * math.prod(places), (count,), generator=generator).to(inputs.device)
    image, *corner = torch.unravel_index(picked, (n, *places))
    index = [image.view(-1, *[1] * dims)]
    for axis, start in enumerate(corner):
        taps = conv.dilation[axis] * torch.arange(conv.kernel_size[axis], device=inputs.device)
        along = [-1 if dim == axis else 1 for dim in range(dims)]
        index.append((start * conv.stride[axis]).view(-1, *[1] * dims) + taps.view(1, *along))
    patches = padded.movedim(1, -1)[tuple(index)]  # (count, *kernel, C)
    patches = patches.movedim(-1, 0).unflatten(0, (conv.groups, channels // conv.groups))
    return patches.transpose(1, 2).flatten(2)


def grouped_weights(module: nn.Module) -> Tensor:
    """The weights that act on x, (groups, outputs per group, d) float64 on the CPU.

    Of a transposed convolution, every tap of the kernel gives outputs of its own.
    """
    assert isinstance(module, nn.Linear | Conv)
    weight = module.weight.detach().cpu().double().flatten(1).unflatten(0, (getattr(module, "groups", 1), -1))
    return weight.mT if isinstance(module, Conv) and module.transposed else weight
