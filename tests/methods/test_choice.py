"""Choices: what stands in a joined ladder, what it costs, who changes which layer, and what of it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from coupled_nets import pieces
from independent import randomise_channels
from torch import Tensor, nn

from methods.base import DENSE, Allocation, Compressor, MethodInfo, Setting, Site, Tuning, example_input
from methods.choice import Choice
from methods.joint_records import choose_records
from methods.joint_tuning import JointTuning
from methods.lowrank.factored_layer import weight_by_output
from methods.moments.output_gradients import DAMPING, measure_output_gradients, metric_root
from methods.moments.setting_damages import measure_damages
from methods.registry import create, method_info
from methods.tables.codebook import CodebookConv, codebook_layers
from methods.testing.conformance import count_flops, train_compressed
from methods.testing.small_networks import SHAPE, random_batches, small_network
from models.errors import UserError
from models.tasks.classification import CLASSIFICATION, Classification
from models.tasks.objective import Batch


def bind_choice(method: str, name: str = "residual", *, calibrated: bool = True, **options: Any) -> Compressor:
    chosen = {key.replace("__", "."): value for key, value in options.items()}
    compressor = create(method, randomise_channels(small_network(name)), example_input(SHAPE), chosen)
    if calibrated:
        compressor.calibrate(random_batches(2))
    return compressor


def members_of(site: Site) -> set[str]:
    return {str(setting["method"]) for setting in site.settings if setting != DENSE}


def all_of(compressor: Compressor) -> Allocation:
    """One setting of each member, on different layers, the hardest that the ladder has."""
    wanted, chosen = {"kse", "kernel-clustering", "tucker"}, {}
    for site in compressor.sites:
        for setting in reversed(site.settings):
            if setting.get("method") in wanted:
                wanted.remove(str(setting["method"]))
                chosen[site.name] = setting
                break
    assert not wanted
    return Allocation(chosen)


def test_of_each_layers_settings_those_stay_that_no_other_beats() -> None:
    """Brute force: FLOPs and damages of every setting of the members alone."""
    joined, kept, dropped = bind_choice("kse-or-tucker"), 0, 0
    batches, network = random_batches(2), randomise_channels(small_network("residual"))
    members = {name: create(name, network, example_input(SHAPE)) for name in ("kse", "tucker")}
    members["tucker"].calibrate(batches)
    damages = {"kse": measure_damages(members["kse"], (), batches, CLASSIFICATION)}
    damages["tucker"] = {site.name: site.damages for site in members["tucker"].sites}
    for site in joined.sites:
        offered = {
            Setting(method=name, **setting): (*member.cost_of(Allocation({site.name: setting})), damage)
            for name, member in members.items()
            for own in member.sites
            if own.name == site.name
            for setting, damage in list(zip(own.settings, damages[name][own.name], strict=True))[1:]
        }
        for setting, damage in list(zip(site.settings, site.damages, strict=True))[1:]:
            assert joined.cost_of(Allocation({site.name: setting})) == offered[setting][:3]
            assert damage == pytest.approx(offered[setting][3])
        chosen = {setting: offered[setting] for setting in site.settings[1:]}
        for setting, (flops, params, size, damage) in offered.items():
            if setting in chosen:
                kept += 1
                continue
            dropped += 1
            beaten = any(other[0] <= flops and other[3] <= damage for key, other in offered.items() if key != setting)
            dearer = any(other[1] < params or other[2] < size for other in chosen.values() if other[0] >= flops)
            saves_nothing = flops >= joined.cost.dense.flops
            assert beaten or dearer or saves_nothing
    assert kept > 20
    assert dropped > 20


def test_measured_damage_is_that_of_the_changed_weights() -> None:
    """Σ over all patches, taken out one by one, of ½ (e − ē)ᵀ G (e − ē) with e = Δ · patch."""
    network = randomise_channels(small_network("plain")).eval()
    batches, kse = random_batches(2), create("kse", network, example_input(SHAPE))
    measured = measure_damages(kse, (), batches, CLASSIFICATION)
    site = kse.sites[0]
    conv = network.get_submodule(site.name)
    assert isinstance(conv, nn.Conv2d)
    read: list[Tensor] = []
    handle = conv.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    with torch.no_grad():
        for images, _ in batches:
            network(images)
    handle.remove()
    patches = torch.cat([
        nn.functional.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride).movedim(1, 2).flatten(0, 1)
        for x in read
    ]).double()  # fmt: skip
    twin = randomise_channels(small_network("plain")).eval()
    moment = measure_output_gradients(twin, [site.name], batches, CLASSIFICATION)[site.name]
    root, _ = metric_root(moment, DAMPING)
    dense = weight_by_output(conv).flatten(1)
    for level in (1, len(site.settings) // 2, len(site.settings) - 1):
        layer = codebook_layers(kse.compress(Allocation({site.name: site.settings[level]})))[site.name]
        change = layer.expand_weight().detach().flatten(1).double() - dense
        errors = patches @ change.T
        centred = errors - errors.mean(0)
        damage = float(((centred @ root.mT).square().sum(1)).mean()) / 2
        assert measured[site.name][level] == pytest.approx(damage, rel=5e-3)


def test_damages_without_a_batch_norm_count_the_mean_as_well() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    batches = [(torch.rand(64, 3, 8, 8) + 1, torch.zeros(64, dtype=torch.long))]
    plain = measure_damages(create("kse", network, batches[0][0]), (), batches, CLASSIFICATION)["2"]
    normed = nn.Sequential(*network, nn.Unflatten(1, (4, 1)), nn.BatchNorm1d(4), nn.Flatten()).eval()
    centred = measure_damages(create("kse", normed, batches[0][0]), (), batches, CLASSIFICATION)["2"]
    assert plain[-1] > centred[-1] > 0


class Counting(Classification):
    """Remembers the batches of which a network was only asked to run."""

    def __init__(self) -> None:
        self.run: list[int] = []

    def forward(self, network: nn.Module, batch: Batch) -> None:
        self.run.append(int(batch[1][0]))
        super().forward(network, batch)


def test_errors_are_measured_on_as_many_batches_as_128_inputs_take() -> None:
    network = small_network("plain")
    images = torch.rand(60, *SHAPE)
    batches = [(images, torch.full((60,), number)) for number in range(5)]
    kse, counting = create("kse", network, example_input(SHAPE)), Counting()
    measure_damages(kse, (), batches, counting)
    assert set(counting.run) == {0, 1, 2}
    assert len(counting.run) == 3 * (max(len(site.settings) for site in kse.sites) - 1)


class Detached(nn.Module):
    """The first layer is frozen by the code, the third is computed and thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.learned, self.unheard = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.middle, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, pieces.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.middle(self.frozen(images)).detach()
        x = torch.relu(self.learned(x))
        self.unheard(x)
        return torch.as_tensor(self.head(x.mean((2, 3))))


def test_layers_behind_no_gradients_have_no_damage_and_those_that_nobody_hears_none_to_do() -> None:
    network, batches = Detached(), random_batches(2, shape=(3, 12, 12), classes=pieces.CLASSES)
    kse = create("kse", network, batches[0][0])
    assert {site.name for site in kse.sites} == {"learned", "unheard", "middle"}
    damages = measure_damages(kse, (), batches, CLASSIFICATION)
    assert damages.keys() == {"learned", "unheard"}
    assert max(damages["unheard"]) == 0 < damages["learned"][-1]
    choice = create("kse-or-svd", network, batches[0][0])
    choice.calibrate(batches)
    known = {site.name for site in choice.sites if site.damages}
    assert {"learned", "unheard", "head"} == known
    assert {site.name for site in choice.sites} - known == {"frozen", "middle"}


@pytest.mark.parametrize("first", ["", "l1+"])
def test_each_member_changes_its_layers_and_all_is_stored(first: str) -> None:
    method = "kernel-clustering-or-kse-or-tucker"
    compressor = bind_choice(first + method, calibrated=False)
    prefix = f"{method}:" if first else ""
    chosen = {f"{prefix}{name}": setting for name, setting in all_of(bind_choice(method, calibrated=False)).items()}
    if first:
        narrow = compressor.sites[1]
        chosen[narrow.name] = narrow.settings[3]
    allocation = Allocation(chosen)
    small = train_compressed(compressor, allocation, random_batches(3))
    by_method = {str(setting.get("method", "l1")): name.removeprefix(prefix) for name, setting in chosen.items()}
    layers = codebook_layers(small)
    assert set(layers) == {by_method["kse"], by_method["kernel-clustering"]}
    assert layers[by_method["kse"]].scale is None
    assert layers[by_method["kernel-clustering"]].scale is not None
    assert isinstance(small.get_submodule(by_method["tucker"]), nn.Sequential)
    assert compressor.cost_of(allocation).flops == count_flops(small, example_input(SHAPE))
    tensors = compressor.pack(small)
    assert tensors[f"{by_method['kernel-clustering']}.scale"].dtype == torch.half
    size = sum(tensor.numel() * tensor.element_size() for name, tensor in tensors.items() if _is_learned(small, name))
    assert compressor.cost_of(allocation).bytes == pytest.approx(size, rel=0.02, abs=64)
    unpacked = bind_choice(first + method, calibrated=False).unpack(allocation, tensors).eval()
    images = random_batches(1)[0][0]
    with torch.no_grad():
        assert torch.equal(unpacked(images), small(images))
    assert {book.name for book in compressor.centroids(small)} == {by_method["kernel-clustering"]}


def _is_learned(network: nn.Module, name: str) -> bool:
    """Not a buffer of a norm."""
    return name in dict(network.named_parameters()) or name.endswith(".index")


def test_layers_that_members_divide_otherwise_go_to_the_one_named_first() -> None:
    shared = {"kernel-clustering__scope": "network"}
    layerwise = bind_choice("tucker-or-kernel-clustering", **shared)
    assert {member for site in layerwise.sites for member in members_of(site)} == {"tucker"}
    told = [reason for name, reason in layerwise.skipped.items() if name.startswith("kernel-clustering:")]
    assert told
    assert all("a method named before" in reason for reason in told)
    together = bind_choice("kernel-clustering-or-tucker", **shared)
    whole = [site for site in together.sites if len(site.layers) > 1]
    assert [members_of(site) for site in whole] == [{"kernel-clustering"}]
    assert not {layer for site in together.sites if site not in whole for layer in site.layers} & set(whole[0].layers)


def test_a_layer_stays_dense_for_the_reasons_of_all() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 4))
    choice = create("kse-or-kernel-clustering", network, torch.zeros(2, 3, 8, 8))
    assert choice.skipped["1"].startswith("kse: every input channel")
    assert "kernel-clustering: no two kernels" in choice.skipped["1"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("tucker-or-l1", "l1 does not work layer by layer"),
        ("resrep-or-kse", "resrep does not work layer by layer"),
        ("kse-or-kse", "each is to be named once"),
        ("kse-or-tuker", "unknown method 'tuker'; did you mean tucker"),
        ("kse-or-tucker+l1", "comes first"),
        ("l1+obs-or-kse", "obs does not work layer by layer"),
    ],
)
def test_what_cannot_be_chosen_from(name: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        method_info(name)


def test_record() -> None:
    info = method_info("obs+tucker-or-kernel-clustering")
    assert info.options["tucker.multiple"] == method_info("tucker").options["multiple"]
    assert info.options["kernel-clustering.scope"] == "layer"
    assert not info.plain_layers
    assert info.has_centroids
    assert method_info("svd-or-tucker").plain_layers


class Fixed(Compressor):
    """A method that follows, and knows nothing of single layers."""

    info = MethodInfo("fixed", "", "", place="second")

    def compress(self, allocation: Allocation) -> nn.Module:
        raise NotImplementedError


def test_members_must_work_layer_by_layer() -> None:
    info, factory = choose_records([(Fixed.info, Fixed), (method_info("kse"), Fixed)])
    with pytest.raises(UserError, match=r"method fixed cannot be one of several: .*LayerMethod"):
        factory(small_network("plain"), example_input(SHAPE), {**info.options})


class Doubled(Tuning):
    """The named parameters at a rate of their own; others that it names stay as they are."""

    def __init__(self, own: str, frozen: str = "") -> None:
        self._own, self._frozen, self.steps = own, frozen, 0

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        named = dict(network.named_parameters())
        own = named.pop(self._own)
        return [{"params": [p for name, p in named.items() if name != self._frozen]}, {"params": [own], "lr": 1.0}]

    def after_backward(self, network: nn.Module, step: int) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"steps": {"count": torch.tensor(self.steps)}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.steps = int(state["steps"]["count"])


def test_every_parameter_follows_the_method_that_speaks_of_it() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    joint = JointTuning({"a": Doubled("0.weight"), "b": Doubled("1.weight", frozen="1.bias")})
    groups = joint.parameter_groups(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [(sorted(names[id(p)] for p in group["params"]), group.get("lr")) for group in groups] == [
        (["0.bias"], None), (["0.weight"], 1.0), (["1.weight"], 1.0),
    ]  # fmt: skip
    joint.after_backward(network, 0)
    again = JointTuning({"a": Doubled("0.weight"), "b": Doubled("1.weight")})
    again.load_state_dict(joint.state_dict())
    assert again.state_dict() == {"a.steps": {"count": torch.tensor(1)}, "b.steps": {"count": torch.tensor(1)}}


def test_ladders_follow_what_was_measured_last() -> None:
    choice = bind_choice("kse-or-tucker")
    before = {site.name: site.damages for site in choice.sites}
    choice.calibrate(random_batches(3, seed=5))
    assert any(site.damages != before.get(site.name) for site in choice.sites)
    last = choice.allocation([len(site.settings) - 1 for site in choice.sites])
    assert choice.cost_of(last).flops == count_flops(choice.compress(last).eval(), example_input(SHAPE))


def test_levels_of_one_member_leave_the_others_dense() -> None:
    choice = bind_choice("kse-or-tucker", calibrated=False)
    assert isinstance(choice, Choice)
    last = np.array([[len(site.settings) - 1 for site in choice.sites]])
    split = choice._joined.split_levels(last)
    assert sum(int((levels > 0).sum()) for levels in split) == len(choice.sites)
    assert isinstance(choice.compress(choice.allocation(last[0])), nn.Module)
    assert not any(isinstance(module, CodebookConv) for module in choice.network.modules())
