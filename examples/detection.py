"""A detector with a C2f-like neck, compressed to half its FLOPs and judged by mAP50.

    pip install -e '.[detection,export]'
    python examples/detection.py
    python run_search.py search --task examples/detection.py:build --target-flops 0.5 --lr 0.05

About a minute and a half on two idle cores, of which half a minute trains the dense detector, once.
"""

from collections.abc import Callable, Iterable

import onnxruntime
import torch
from digit_canvases import CLASSES, Canvas, DigitCanvases
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss
from trained_network import train_once

from models.task import Task
from search import api

SIZE, STRIDE = 64, 4
Batch = tuple[Tensor, list[dict[str, Tensor]]]  # pictures; boxes and labels of each
Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class ConvBlock(nn.Sequential):
    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(after), nn.SiLU())


class C2f(nn.Module):
    """Half of the channels goes through bottlenecks with skips; every stage of them is concatenated."""

    def __init__(self, before: int, after: int, depth: int = 1) -> None:
        super().__init__()
        half = after // 2
        self.enter, self.leave = ConvBlock(before, after, 1), ConvBlock((2 + depth) * half, after, 1)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(ConvBlock(half, half), ConvBlock(half, half)) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        stages = list(self.enter(x).chunk(2, 1))
        for bottleneck in self.bottlenecks:
            stages.append(stages[-1] + bottleneck(stages[-1]))
        return self.leave(torch.cat(stages, 1))


class Detector(nn.Module):
    """For every cell of 4 x 4 pixels: logits of the classes, and the distances from its centre to the box's sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 16, stride=2)
        self.fine = nn.Sequential(ConvBlock(16, 32, stride=2), C2f(32, 32))
        self.coarse = nn.Sequential(ConvBlock(32, 64, stride=2), C2f(64, 64), ConvBlock(64, 64), C2f(64, 64))
        self.neck = C2f(64 + 32, 48)
        self.classes = nn.Sequential(ConvBlock(48, 48), nn.Conv2d(48, CLASSES, 1))
        self.sides = nn.Sequential(ConvBlock(48, 32), nn.Conv2d(32, 4, 1))
        nn.init.constant_(self.classes[-1].bias, -4.0)  # at first nothing is anywhere

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(self.stem(pictures))
        coarse = functional.interpolate(self.coarse(fine), scale_factor=2.0)
        neck = self.neck(torch.cat([coarse, fine], 1))
        return self.classes(neck), functional.softplus(self.sides(neck))  # (n, 10, 16, 16), (n, 4, 16, 16)


def cell_centres(device: torch.device) -> Tensor:
    """(256, 2): x and y in pixels."""
    ticks = (torch.arange(SIZE // STRIDE, device=device) + 0.5) * STRIDE
    return torch.cartesian_prod(ticks, ticks).flip(1)


def decode_boxes(sides: Tensor) -> Tensor:
    """(n, 4, 16, 16) distances in cells to (n, 256, 4) boxes in pixels."""
    centres, distances = cell_centres(sides.device), STRIDE * sides.flatten(2).transpose(1, 2)
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], 2)


def detection_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Focal loss of the classes and GIoU loss of the boxes; the cells in the middle of a digit have to find it."""
    pictures, targets = batch
    classes, sides = network(pictures)
    scores, boxes = classes.flatten(2).transpose(1, 2), decode_boxes(sides)
    wanted, box_losses = torch.zeros_like(scores), []
    centres = cell_centres(pictures.device)
    for index, target in enumerate(targets):
        middles = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
        cells, digits = ((centres[:, None] - middles).abs().amax(2) <= STRIDE).nonzero(as_tuple=True)
        wanted[index, cells, target["labels"][digits]] = 1
        box_losses.append(generalized_box_iou_loss(boxes[index, cells], target["boxes"][digits]))
    box_loss = torch.cat(box_losses)
    return sigmoid_focal_loss(scores, wanted, reduction="sum") / len(box_loss) + box_loss.mean()


def score_detections(network: Network, batches: Iterable[Batch]) -> dict[str, float]:
    """mAP at an IoU of 0.5, by torchmetrics."""
    metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="faster_coco_eval")
    for pictures, targets in batches:
        classes, sides = network(pictures)
        metric.update(find_digits(classes, sides), targets)
    return {"mAP50": float(metric.compute()["map_50"])}


def find_digits(classes: Tensor, sides: Tensor) -> list[dict[str, Tensor]]:
    """Boxes, scores and labels of each picture, without duplicates."""
    detections = []
    for boxes, probabilities in zip(decode_boxes(sides), classes.flatten(2).sigmoid(), strict=True):
        labels, cells = (probabilities > 0.05).nonzero(as_tuple=True)
        scores = probabilities[labels, cells]
        kept = batched_nms(boxes[cells], scores, labels, 0.5)
        detections.append({"boxes": boxes[cells[kept]], "scores": scores[kept], "labels": labels[kept]})
    return detections


def join_canvases(canvases: list[Canvas]) -> Batch:
    pictures = torch.stack([canvas.picture for canvas in canvases])
    return pictures, [{"boxes": canvas.boxes, "labels": canvas.labels} for canvas in canvases]


def build() -> Task:
    """What `--task examples/detection.py:build` compresses."""
    torch.manual_seed(0)
    train = DataLoader(DigitCanvases("train", 1200, SIZE), 32, shuffle=True, collate_fn=join_canvases)
    search, test = (
        DataLoader(DigitCanvases(split, 256, SIZE), 64, collate_fn=join_canvases) for split in ("search", "test")
    )
    return Task.from_loaders(
        train_once(Detector(), train, detection_loss, file=__file__, epochs=12),
        train,
        search,
        test,
        loss=detection_loss,
        score=score_detections,
        metrics="mAP50",
        outputs=lambda network, batch: network(batch[0]),
        example=torch.zeros(2, 1, SIZE, SIZE),
    )


def main() -> None:
    """The cells, one after another."""
    # %% Candidates are fine-tuned for one epoch, the best of each target for three, with two seeds
    task = build()
    result = api.search(task=task, targets=0.5, strategy="acra-uniform", lr=0.05, final_seeds=2, workers=0)
    best = result.best.loc["0.5"]
    dense = task.score(task.network, "test")["mAP50"]
    print(f"mAP50 {dense:.4f} dense, {best['test_mAP50']:.4f} at {best['kept_flops']:.4f} of the FLOPs")

    # %% The ONNX file is judged by the same function, with onnxruntime in the network's place
    exported = result.export(formats=["onnx"], to=result.folder / "export")
    runtime = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    name = runtime.get_inputs()[0].name

    def run_file(pictures: Tensor) -> tuple[Tensor, Tensor]:
        classes, sides = map(torch.from_numpy, runtime.run(None, {name: pictures.numpy()}))
        return classes, sides

    by_torch = task.score(result.network("0.5"), "test")["mAP50"]
    by_file = task.score(run_file, "test")["mAP50"]
    print(f"mAP50 {by_torch:.4f} by torch, {by_file:.4f} by {exported.folder / 'model.onnx'}")


if __name__ == "__main__":
    main()
