"""A picture and a vector as inputs, and a dictionary as output, as models of Hugging Face's transformers have them.

    python examples/two_inputs.py
    python run_search.py search --task examples/two_inputs.py:build --target-flops 0.5

Half a minute on two idle cores. Two digits stand beside each other, and a vector says which of them is asked for.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from trained_network import train_once

from models.task import Logits, Task
from models.tasks.loaded import Split
from search import api

SOURCES = {"train": slice(0, 1100), "search": slice(1100, 1450), "test": slice(1450, 1797)}  # of the 1,797 digits
Batch = dict[str, Tensor]  # pixel_values, question, labels


class ModelOutput(OrderedDict[str, Tensor]):
    """Entries by name or as attributes."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class QuestionNet(nn.Module):
    """The question scales the channels of the picture's features."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 2, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
        )  # fmt: skip
        self.read = nn.Linear(2, channels)
        self.think = nn.Sequential(
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(),
            nn.AdaptiveMaxPool2d((1, 2)), nn.Flatten(), nn.Linear(4 * channels, 64), nn.ReLU(),
        )  # fmt: skip
        self.answer = nn.Linear(64, 10)

    def forward(self, pixel_values: Tensor, question: Tensor) -> ModelOutput:
        features = self.see(pixel_values)
        asked = self.read(question)[:, :, None, None].expand_as(features)
        hidden = self.think(torch.cat([features, asked], 1))
        return ModelOutput(logits=self.answer(hidden), hidden_state=hidden)


class DigitPairs(Dataset[Batch]):
    """Pairs of digits, (1, 8, 16), with a question, (2,), and the label of the digit that it asks for."""

    def __init__(self, split: str, count: int) -> None:
        digits = load_digits()
        pictures = torch.tensor(digits.images[SOURCES[split]] / 16, dtype=torch.float32)
        labels = torch.tensor(digits.target[SOURCES[split]])
        generator = torch.Generator().manual_seed(0)
        self.chosen = torch.randint(len(pictures), (count, 2), generator=generator)
        self.sides = torch.randint(2, (count,), generator=generator)
        self.pictures = torch.cat([pictures[self.chosen[:, 0]], pictures[self.chosen[:, 1]]], 2)[:, None]
        self.labels = labels[self.chosen[torch.arange(count), self.sides]]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        question = functional.one_hot(self.sides[index], 2).float()
        return {"pixel_values": self.pictures[index], "question": question, "labels": self.labels[index]}


def compute_logits(network: nn.Module, batch: Batch) -> Tensor:
    return network(pixel_values=batch["pixel_values"], question=batch["question"]).logits


def answer_loss(network: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(compute_logits(network, batch), batch["labels"])


class DigitQuestions(Task):
    """Written out, without `Task.from_loaders`."""

    metrics = ("accuracy, %",)
    example = {"pixel_values": torch.zeros(2, 1, 8, 16), "question": torch.eye(2)}  # the arguments by their names

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.train = DataLoader(DigitPairs("train", 3000), 64, shuffle=True)
        self.held_out = {split: DigitPairs(split, 500) for split in ("search", "test")}
        self.sizes = {split: len(pairs) for split, pairs in self.held_out.items()}
        self.network = train_once(QuestionNet(), self.train, answer_loss, file=__file__, epochs=8)

    def training_batches(self, epoch: int, seed: int) -> Iterable[Batch]:
        return self.train  # its order comes from torch's random numbers, which are seeded with both

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return answer_loss(network, batch)

    def score(self, network: nn.Module, split: Split) -> Mapping[str, float]:
        right = 0
        for batch in DataLoader(self.held_out[split], 100):
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            right += int((compute_logits(network, batch).argmax(1) == batch["labels"]).sum())
        return {"accuracy": right / len(self.held_out[split])}

    def outputs(self, network: nn.Module, batch: Batch) -> Logits:
        return Logits(compute_logits(network, batch))


def build() -> Task:
    """What `--task examples/two_inputs.py:build` compresses."""
    return DigitQuestions()


def main() -> None:
    """The cells, one after another."""
    result = api.search(task=build(), targets=0.5, strategy="acra-uniform", final_seeds=2, workers=0)
    print(result.best[["strategy", "kept_flops", "params", "test_accuracy", "delta_points"]].to_string())
    pictures = DigitPairs("test", 4)
    batch = next(iter(DataLoader(pictures, 4)))
    network = result.network("0.5")
    answers = network(pixel_values=batch["pixel_values"], question=batch["question"]).logits.argmax(1)
    print(f"answers {answers.tolist()}, right are {batch['labels'].tolist()}")


if __name__ == "__main__":
    main()
