"""Which rule says what an operator does to planes of labels.

A rule is called as `rule(call)` and returns the planes of the result, which stand for every tensor that the operator
returns; a list has the planes of each of them. An operator without a rule pins whatever enters it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.graph.flow.arithmetic import (
    attend,
    convolve,
    fold_patches,
    gate_halves,
    keep_elements,
    multiply_matrices,
    normalise_channels,
    pool_positions,
    sample_positions,
)
from methods.graph.flow.call import Call, pin_inputs
from methods.graph.flow.movement import (
    concatenate_elements,
    embed_rows,
    move_elements,
    pad_elements,
    pick_elements,
    reshape_elements,
    slice_elements,
    write_elements,
    write_indexed,
)
from methods.graph.flow.reductions import MEASURES, SOFTMAXES, reduce_dims, scale_channels, work_along_dim
from methods.graph.steady_draws import drawn_from_shapes

Rule = Callable[[Call], Any]

NAMES: dict[Rule, str] = {
    move_elements: """
        alias as_strided channel_shuffle clone contiguous detach diagonal expand expand_copy flip im2col
        lift_fresh lift_fresh_copy movedim narrow native_channel_shuffle permute pixel_shuffle pixel_unshuffle
        reflection_pad1d reflection_pad2d repeat replication_pad1d replication_pad2d _reshape_alias_copy roll
        rot90 squeeze swapaxes t tile _to_copy transpose unfold unsqueeze
    """,
    pick_elements: "gather index index_select _unsafe_index",
    reshape_elements: "flatten reshape _reshape_alias unflatten _unsafe_view view",
    slice_elements: "select slice split split_with_sizes unbind",
    concatenate_elements: "cat stack",
    pad_elements: "constant_pad_nd",
    write_elements: "copy copy_",
    write_indexed: "index_put _index_put_impl _unsafe_index_put",
    embed_rows: "embedding",
    keep_elements: """
        addcdiv addcmul clamp clamp_max clamp_min dropout elu gelu hardsigmoid hardswish hardtanh leaky_relu
        lerp masked_fill mish native_dropout normal poisson prelu _prelu_kernel silu where
    """,
    gate_halves: "glu",
    fold_patches: "col2im",
    sample_positions: "cudnn_grid_sampler grid_sampler grid_sampler_2d grid_sampler_3d roi_align roi_pool",
    convolve: "convolution",
    multiply_matrices: "addmm baddbmm bmm mm",
    attend: """
        _scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_fused_attention_overrideable
    """,
    normalise_channels: """
        _batch_norm_no_update cudnn_batch_norm miopen_batch_norm native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training native_group_norm native_layer_norm _fused_rms_norm
    """,
    reduce_dims: " ".join(sorted(MEASURES)) + " argmax argmin median mode nanmedian",
    scale_channels: " ".join(sorted(SOFTMAXES)),
    work_along_dim: "cummax cummin cumprod cumsum logcumsumexp sort topk",
}
_RULES = {name: rule for rule, names in NAMES.items() for name in names.split()}
_POOLS = ("pool1d", "pool2d", "pool3d", "upsample", "unpool")  # parts of names
_SHAPES_ALONE = """
    empty_like fill_ full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like zero_ zeros_like
"""
_MADE_FROM_SHAPES = frozenset(_SHAPES_ALONE.split())


FACTORIES = frozenset(
    [
        "arange",
        "empty",
        "expand",
        "full",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones",
        "rand",
        "randn",
        "zeros",
    ]
)
"""Operators whose result has sizes that the code names; `expand` is one where it repeats a single number."""


def made_from_shapes(name: str, number_of_tensors: int) -> bool:
    """Whether the operator's result holds nothing of its operands but their shapes."""
    return number_of_tensors == 0 or name in _MADE_FROM_SHAPES or drawn_from_shapes(name)


def rule_of(func: Any, name: str, arguments: dict[str, Any]) -> Rule:
    """The rule of an operator; `pin_inputs` for one that is unknown."""
    plain = name.removesuffix("_") if name != "copy_" else name
    # `max` of two tensors is element-wise, of one tensor a reduction.
    if plain in ("max", "min") and isinstance(arguments.get("other"), Tensor):
        return keep_elements
    if plain in _RULES:
        return _RULES[plain]
    if any(part in name for part in _POOLS):
        return pool_positions
    if torch.Tag.pointwise in func.tags:
        return keep_elements
    return pin_inputs


def operator_words(name: str, rule: Callable[[Call], Any]) -> str:
    """An operator as a reason names it: `mean over channels`."""
    plain = name.strip("_").removeprefix("native_")
    if rule in (reduce_dims, scale_channels, work_along_dim):
        return f"{plain} over channels"
    if rule is attend:
        return "attention, which scales by their number,"
    if plain in ("mkldnn_rnn_layer", "cudnn_rnn"):
        plain = "a recurrent layer"
    if rule is pin_inputs:
        return f"{plain}, through which channels are not followed,"
    return plain
