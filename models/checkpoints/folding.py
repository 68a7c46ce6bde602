"""What would make a checkpoint fit whose weights were kept in parts: the call that folds them, by the parts' names."""

from __future__ import annotations

from collections.abc import Collection

# The endings of the names that stand in place of `weight` (or `bias`), and what makes one tensor of them.
_PARTS = {
    ("_orig", "_mask"): ("pruned by torch.nn.utils.prune", "torch.nn.utils.prune.remove(layer, {name!r})"),
    ("_orig", "_u"): ("kept by spectral_norm", "torch.nn.utils.remove_spectral_norm(layer, {name!r})"),
    ("_g", "_v"): ("kept by weight_norm", "torch.nn.utils.remove_weight_norm(layer, {name!r})"),
}
_PARAMETRIZED = "parametrizations."
_REMOVAL = "torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"


def folding_advice(extra: Collection[str], missing: Collection[str]) -> str | None:
    """For names that a checkpoint has and the network has not, and the reverse; None if they are no parts.

    Example:
        `0.weight_orig` and `0.weight_mask` in place of `0.weight`.
    """
    for tensor_name in missing:
        layer, _, name = tensor_name.rpartition(".")
        place = f"{layer}." if layer else ""
        for endings, (state, call) in _PARTS.items():
            if all(tensor_name + ending in extra for ending in endings):
                return _folding_sentence(tensor_name, state, call.format(name=name))
        if any(key.startswith(f"{place}{_PARAMETRIZED}{name}.") for key in extra):
            return _folding_sentence(tensor_name, "parametrized", _REMOVAL.format(name=name))
    return None


def _folding_sentence(tensor_name: str, state: str, call: str) -> str:
    return f"{tensor_name} is {state}: call {call} on each such layer before saving"
