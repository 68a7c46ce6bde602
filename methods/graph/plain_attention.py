"""PyTorch's attention module as linear layers and one product, each of which can be narrowed by itself.

`nn.MultiheadAttention` holds the weights of queries, keys and values in one bare tensor and insists that its heads
have the width of its inputs divided by their number. The plain form computes the same without either.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.same_outputs import gives_same_outputs
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write


class PlainAttention(nn.Module):
    """What an `nn.MultiheadAttention` computes, with a linear layer each for queries, keys, values and outputs.

    Attributes:
        scale: of the scores, by the width of the dense heads.
    """

    # `nn.TransformerEncoder` looks at these before it fuses a block of layers, which it then leaves.
    _qkv_same_embed_dim = False
    in_proj_bias = None

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.dropout = attention.num_heads, attention.dropout
        self.embed_dim, self.batch_first = attention.embed_dim, attention.batch_first
        self.scale = attention.head_dim**-0.5
        if attention.in_proj_weight is None:
            weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        else:
            weights = list(attention.in_proj_weight.chunk(3))
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        source = attention.in_proj_weight if attention.in_proj_weight is not None else attention.q_proj_weight
        self.query, self.key, self.value = (
            _linear_layer(weight, bias, trained=source.requires_grad)
            for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = attention.out_proj
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Of the arguments that `nn.MultiheadAttention` takes."""
        if query.dim() == 2:  # one example
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
            mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            outputs, weights = self._attend(query, key, value, mask, attn_mask, need_weights)
            outputs, weights = outputs.squeeze(0), None if weights is None else weights.squeeze(0)
            heads = 0
        else:
            if not self.batch_first:
                query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
            outputs, weights = self._attend(query, key, value, key_padding_mask, attn_mask, need_weights)
            outputs = outputs if self.batch_first else outputs.transpose(0, 1)
            heads = 1
        if weights is not None and average_attn_weights:
            weights = weights.mean(heads)
        return outputs, weights

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Of examples first; weights (B, heads, L, S) if they are asked for."""
        q, k, v = (
            layer(tensor).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, tensor in ((self.query, query), (self.key, key), (self.value, value))
        )
        bias = self._join_masks(q, padding, mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.dropout((scores if bias is None else scores + bias).softmax(-1), dropout)
            heads = weights @ v
        else:
            heads = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=self.scale)
        return self.out_proj(heads.transpose(1, 2).flatten(2)), weights

    def _join_masks(self, q: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores, (B or 1, heads or 1, L or 1, S)."""
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (len(q), self.num_heads))
        biases = [
            _as_bias(m, q.dtype) for m in (mask, None if padding is None else padding[:, None, None]) if m is not None
        ]
        return sum(biases[1:], biases[0]) if biases else None


def _as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """True stands for what is not looked at."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
    return mask.to(dtype)


def _linear_layer(weight: Tensor, bias: Tensor | None, *, trained: bool) -> nn.Linear:
    # Of no memory: its weights are replaced, and should not be drawn.
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=trained)
    return layer


def replaceable_attention(network: nn.Module, example: Inputs) -> tuple[str, ...]:
    """The attention modules that can be replaced by their plain form; none if the network's outputs would change."""
    names = tuple(
        name
        for name, module in network.named_modules(remove_duplicate=False)
        if type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn
    )
    if not names:
        return ()
    twin = copy_on_write(network)
    replace_attention(twin, names)
    return names if gives_same_outputs(network, twin, example) else ()


def replace_attention(network: nn.Module, names: Iterable[str]) -> None:
    """Put the plain form in the place of the attention modules named, in place."""
    plain: dict[nn.Module, PlainAttention] = {}  # one module may have several names
    for name in names:
        attention = network.get_submodule(name)
        if isinstance(attention, nn.MultiheadAttention):
            network.set_submodule(name, plain.setdefault(attention, PlainAttention(attention)))
