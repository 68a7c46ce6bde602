"""Putting a checkpoint's weights into a network, and reading what was recorded beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.checkpoints.folding import folding_advice
from models.checkpoints.reading import is_safetensors, read_checkpoint, read_head, unreadable_checkpoint
from models.checkpoints.state_dicts import Weights, find_weights
from models.checkpoints.writing import torch_metadata
from models.errors import UserError
from models.notices import add_notice
from models.settings import setting_name

_SHOWN = 3  # names in a sentence
_ENTRY = "#"  # between a file and the place in it whose weights are meant


def split_entry(weights: str | Path) -> tuple[Path, str | None]:
    """`file.pt#ema.module` as the file and the place in it; a file whose name has a `#` is found as well."""
    file, mark, entry = str(weights).rpartition(_ENTRY)
    if not mark or Path(weights).exists():
        return Path(weights), None
    return Path(file), entry


def load_weights(network: nn.Module, weights: str | Path) -> None:
    """Load a checkpoint into `network`, converting to its precision; what was taken out of it is said in a notice.

    Args:
        weights: the file; `file.pt#ema` names one of several sets of weights in it.

    Raises:
        UserError: no such file, not readable without running code, or entries that differ (the first ones named).
    """
    path, entry = split_entry(weights)
    content = read_checkpoint(path)
    held = find_weights(content, network, entry)
    if not held and entry is not None:
        names = ", ".join(weights.name for weights in find_weights(content, network) if weights.name)
        raise UserError(f"checkpoint {path} has no weights at {entry!r}; it has {names or 'no places with names'}")
    if not held:
        kind = type(content).__name__
        entries = (
            f" of {_first_names(list(map(str, content)), ', ')}" if isinstance(content, Mapping) and content else ""
        )
        raise UserError(
            f"checkpoint {path} holds a {kind}{entries} and no state dict (tensors under the layers' names)"
        )
    taken = held[0]
    if taken.differences:
        place = f" (its {taken.name})" if taken.name else ""
        advice = folding_advice(taken.extra, network.state_dict().keys() - taken.tensors.keys())
        said = [_first_names(taken.differences, "; "), *([advice] if advice else [])]
        raise UserError(f"weights {path}{place} do not fit the network: {'; '.join(said)}")
    # Other sets that fit are worth a word only if they hold other values, as an average beside the plain weights does.
    rivals = [weights for weights in held[1:] if not taken.has_same_values(weights)]
    if equal := [weights.name for weights in rivals if weights.rank == taken.rank]:
        raise UserError(
            f"checkpoint {path} holds several sets of weights that fit: {taken.name}, {', '.join(equal)}; "
            f"say which one: {path}{_ENTRY}{taken.name}"
        )
    _say_taken(path, taken, rivals)
    # Not strict: counters of batches may be missing, and the comparison above refused everything else that is.
    network.load_state_dict(taken.tensors, strict=False)


def _say_taken(path: Path, taken: Weights, rivals: list[Weights]) -> None:
    """A notice of what a checkpoint's weights are, unless they are the whole of it."""
    said = []
    if taken.name:
        said.append(f"{taken.name} is taken" + (", which is an average over training" if taken.is_average else ""))
    if rivals:
        names = ", ".join(weights.name for weights in rivals)
        said.append(f"{names} fits as well ({setting_name('weights')} {path.name}{_ENTRY}{rivals[0].name})")
    if taken.left_out:
        said.append(f"left out: {_first_names(taken.left_out, ', ')}")
    tensors = [value for value in taken.tensors.values() if isinstance(value, Tensor)]
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()}
    if kinds := kinds - {"float32"}:
        said.append(f"converted from {' and '.join(sorted(kinds))} to float32")
    if said:
        add_notice(f"weights {path.name}: {'; '.join(said)}")


def _first_names(names: Sequence[str], separator: str) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `train` recorded; empty for any other kind of checkpoint."""
    path, _ = split_entry(path)
    if not is_safetensors(read_head(path)):
        return torch_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise unreadable_checkpoint(path, error) from error
