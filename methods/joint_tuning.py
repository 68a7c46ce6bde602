"""What several methods add to the fine-tuning of one network, each for its own layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from methods.base import Tuning


class JointTuning(Tuning):
    """The tunings one after the other. A parameter follows the first of them that says more of it than that it learns;
    one that any of them leaves out stays as it is."""

    def __init__(self, tunings: Mapping[str, Tuning]) -> None:
        self._tunings = tunings

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        of_tunings = [tuning.parameter_groups(network) for tuning in self._tunings.values()]
        learned = [{p for group in groups for p in group["params"]} for groups in of_tunings]
        open_ = [p for p in network.parameters() if all(p in params for params in learned)]
        joint = []
        for group in (group for groups in of_tunings for group in groups if group.keys() > {"params"}):
            members = set(group["params"])
            joint.append({**group, "params": [p for p in open_ if p in members]})
            open_ = [p for p in open_ if p not in members]
        return [group for group in ({"params": open_}, *joint) if group["params"]]

    def after_backward(self, network: nn.Module, step: int) -> None:
        for tuning in self._tunings.values():
            tuning.after_backward(network, step)

    @property
    def has_hook(self) -> bool:
        return any(tuning.has_hook for tuning in self._tunings.values())

    def finish(self, network: nn.Module) -> nn.Module:
        for tuning in self._tunings.values():
            network = tuning.finish(network)
        return network

    def report(self) -> dict[str, Any]:
        return {key: value for tuning in self._tunings.values() for key, value in tuning.report().items()}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {
            f"{label}.{key}": state
            for label, tuning in self._tunings.items()
            for key, state in tuning.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for label, tuning in self._tunings.items():
            prefix = f"{label}."
            tuning.load_state_dict(
                {key.removeprefix(prefix): part for key, part in state.items() if key.startswith(prefix)}
            )
