"""Networks as people write them, for images (3, 16, 16): some must come to an end, some are refused in a sentence."""

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


def unit(inputs, outputs, stride=1, norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs), nn.ReLU())


def features(channels, norm=nn.BatchNorm2d):
    return nn.Sequential(unit(channels, 8, 2, norm), unit(8, 12, 2, norm))


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.features, self.head = features(channels), nn.Linear(12, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def plain(classes, channels):
    return Net(classes, channels)


class FlattenLinear(Net):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.first, self.head = nn.Linear(12 * 16, 20), nn.Linear(20, classes)

    def forward(self, x):
        x = self.features(x)
        x = x.view(x.shape[0], -1)
        return self.head(F.relu(self.first(x)))


def flatten_linear(classes, channels):
    return FlattenLinear(classes, channels)


def data_parallel(classes, channels):
    return nn.DataParallel(Net(classes, channels))


def compiled(classes, channels):
    return torch.compile(Net(classes, channels))


def wrapped_inside(classes, channels):
    head = torch.compile(nn.Linear(12, classes))
    return nn.Sequential(nn.DataParallel(features(channels)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def averaged(classes, channels):
    return torch.optim.swa_utils.AveragedModel(nn.DataParallel(Net(classes, channels)))


def sync_norm(classes, channels):
    return nn.SyncBatchNorm.convert_sync_batchnorm(Net(classes, channels))


def norm_variants(classes, channels):
    kinds = [{"affine": False}, {"track_running_stats": False}, {"momentum": None}]
    widths = [channels, 8, 8, 8]
    layers = [
        nn.Sequential(nn.Conv2d(widths[i], 8, 3, 1, 1), nn.BatchNorm2d(8, **kind), nn.ReLU())
        for i, kind in enumerate(kinds)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def lazy(classes, channels):
    first = nn.Sequential(nn.LazyConv2d(8, 3, 2, 1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(12, 3), nn.ReLU())
    return nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes))


def frozen_stem(classes, channels):
    network = Net(classes, channels)
    network.features[0].requires_grad_(False)
    return network


def half(classes, channels):
    return Net(classes, channels).half()


class AuxiliaryHead(Net):
    """A tuple in training, through layers that evaluation never calls."""

    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.side, self.auxiliary = unit(8, 6), nn.Linear(6, classes)

    def forward(self, x):
        middle = self.features[0](x)
        scores = self.head(self.features[1](middle).mean((2, 3)))
        return (scores, self.auxiliary(self.side(middle).mean((2, 3)))) if self.training else scores


def auxiliary_head(classes, channels):
    return AuxiliaryHead(classes, channels)


class BranchOnData(Net):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.rare = unit(12, 12)

    def forward(self, x):
        maps = self.features(x)
        if x.abs().mean() > 2:
            maps = self.rare(maps)
        return self.head(maps.mean((2, 3)))


def branch_on_data(classes, channels):
    return BranchOnData(classes, channels)


class UnsavedBuffer(Net):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        return super().forward(x * self.scale)


def unsaved_buffer(classes, channels):
    return UnsavedBuffer(classes, channels)


class EvalTakesLoader(Net):
    def eval(self, loader):
        return loader


class TrainIsALoop(Net):
    def train(self, loader, epochs):
        return loader, epochs


class TrainReturnsNothing(Net):
    """As MMDetection's backbones do, to keep batch norm as it is."""

    def train(self, mode=True):
        super().train(mode)
        self.features[0][1].eval()


def eval_takes_loader(classes, channels):
    return EvalTakesLoader(classes, channels)


def train_is_a_loop(classes, channels):
    return TrainIsALoop(classes, channels)


def train_returns_nothing(classes, channels):
    return TrainReturnsNothing(classes, channels)


class Volumes(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.b, self.head = nn.Conv3d(1, 4, 3), nn.Conv3d(4, 6, (1, 3, 3)), nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.b(self.a(x[:, None]).relu()).relu().mean((2, 3, 4)))


def volumes(classes):
    return Volumes(classes)


# From here on networks that are refused.


def scripted(classes, channels):
    return torch.jit.script(Net(classes, channels))


def scripted_inside(classes, channels):
    return nn.Sequential(torch.jit.script(Net(classes, channels)))


def on_meta(classes, channels):
    with torch.device("meta"):
        return Net(classes, channels)


class Channels(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def without_parameters():
    return Channels()


def no_module(classes):
    return lambda x: x


class Stop(BaseException):
    pass


class Stops(Net):
    def forward(self, x):
        raise Stop("enough")


class Exits(Net):
    def forward(self, x):
        sys.exit(3)


class Recurses(Net):
    def forward(self, x):
        return self(x)


class TwoInputs(Net):
    def forward(self, x, meta):
        return super().forward(x)


class TwoOutputs(Net):
    def forward(self, x):
        return super().forward(x), x


class OneAtATime(Net):
    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)).view(1, 12))


def stops(classes, channels):
    return Stops(classes, channels)


def exits(classes, channels):
    return Exits(classes, channels)


def exits_when_built(classes):
    sys.exit("no licence")


def stops_when_built(classes):
    raise Stop("enough")


def recurses(classes, channels):
    return Recurses(classes, channels)


def two_inputs(classes, channels):
    return TwoInputs(classes, channels)


def two_outputs(classes, channels):
    return TwoOutputs(classes, channels)


def one_at_a_time(classes, channels):
    return OneAtATime(classes, channels)


def one_dimensional(classes, channels):
    return nn.Sequential(nn.Conv1d(channels, 4, 3), nn.Flatten(), nn.LazyLinear(classes))


# And those that can be judged but not trained.


def all_frozen(classes, channels):
    return Net(classes, channels).requires_grad_(False)


class NeedsTargets(Net):
    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets are needed in training")
        return super().forward(x)


def needs_targets(classes, channels):
    return NeedsTargets(classes, channels)


class NoScoresInTraining(Net):
    def forward(self, x):
        return {"loss": x.sum()} if self.training else super().forward(x)


def no_scores_in_training(classes, channels):
    return NoScoresInTraining(classes, channels)


def weight_normed(classes, channels):
    layers = [weight_norm(nn.Conv2d(channels, 8, 3)), nn.ReLU(), weight_norm(nn.Conv2d(8, 8, 3)), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
