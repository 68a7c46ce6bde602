"""What a task is judged by: the metric's name, its unit, and which way is better."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from models.errors import UserError

_LOWER, _HIGHER = "lower is better", "higher is better"
_DIRECTION = re.compile(r"better|lower|higher|minim|maxim", re.IGNORECASE)
_DIRECTION_IN_NAME = re.compile(r"\b(better|lower|higher|minimi[sz]e|maximi[sz]e)", re.IGNORECASE)


class Metric(BaseModel):
    """A metric; of a task's metrics the first one ranks.

    As text: `mIoU`, `PSNR, dB`, `MAE, mm, lower is better`. A metric whose unit is `%` is a share, 0 to 1, and shown
    as a percentage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str = ""
    lower_is_better: bool = False
    counted: bool = False
    """Whether it is the share of the inputs that are right, so that one input more is a known step: of `ACCURACY`
    alone. A user's own accuracy may be weighted, or of pixels."""

    @classmethod
    def parse(cls, text: str) -> Metric:
        """A metric from its text; UserError if it has no name, or says more than unit and direction."""
        name, *rest = (word.strip() for word in text.split(","))
        if _DIRECTION_IN_NAME.search(name):
            raise UserError(
                f"metric {text!r}: its name holds a direction; write NAME, {_LOWER} (or NAME, UNIT, {_LOWER})"
            )
        for word in rest:
            if _DIRECTION.search(word) and word.lower() not in (_LOWER, _HIGHER):
                raise UserError(f"metric {text!r}: direction {word!r} is not known; write {_LOWER} or {_HIGHER}")
        directions = [word for word in rest if word.lower() in (_LOWER, _HIGHER)]
        units = [word for word in rest if word.lower() not in (_LOWER, _HIGHER)]
        if not name or len(directions) > 1 or len(units) > 1:
            raise UserError(f"metric {text!r} is not understood; write NAME, or NAME, UNIT, {_LOWER}")
        return cls(name=name, unit=units[0] if units else "", lower_is_better=_LOWER in map(str.lower, directions))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.name, self.unit, _LOWER if self.lower_is_better else "")))

    @property
    def with_direction(self) -> str:
        """As text that names the direction in any case: `mIoU, %, higher is better`."""
        return str(self) if self.lower_is_better else f"{self}, {_HIGHER}"

    def worth(self, value: float) -> float:
        """The value, or its negative where lower is better: the larger worth is the better one."""
        return -value if self.lower_is_better else value

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be shown in the unit."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def heading(self) -> str:
        """Of a column or an axis: `accuracy, %`, `MAE, mm`, `mAP50`."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def delta_heading(self) -> str:
        """Of a column of differences: `Δ, points` of percentages."""
        unit = "points" if self.unit == "%" else self.unit
        return f"Δ, {unit}" if unit else "Δ"

    def number_text(self, value: float) -> str:
        """A value without its unit: two decimals of a percentage, four digits or more of others."""
        return f"{100 * value:.2f}" if self.unit == "%" else _plain_text(value, 4)

    def spread_text(self, std: float) -> str:
        """A standard deviation without its unit: two decimals of a percentage, two digits of others."""
        return f"{100 * std:.2f}" if self.unit == "%" else _plain_text(std, 2)

    def delta_text(self, difference: float) -> str:
        """A difference of two values without its unit, signed, with a true minus sign."""
        text = f"{100 * difference:+.2f}" if self.unit == "%" else _plain_text(difference, 3, "+")
        return text.replace("-", "−")

    def change_text(self, difference: float) -> str:
        """A difference of two values with its unit: `-0.52 points` of a percentage, `+0.3 dB`."""
        text = (
            f"{100 * difference:+.2f} points" if self.unit == "%" else f"{_plain_text(difference, 3, '+')} {self.unit}"
        )
        return text.rstrip()

    def value_text(self, value: float) -> str:
        """A value with its unit: `91.25%`, `31.4 dB`."""
        unit = self.unit if self.unit in ("", "%") else f" {self.unit}"
        return f"{self.number_text(value)}{unit}"

    def mean_text(self, mean: float, std: float | None) -> str:
        """A mean over seeds with its standard deviation, if that is known: `91.25% ± 0.10%`, `31.4 ± 0.2 dB`."""
        if std is None or math.isnan(std):
            return self.value_text(mean)
        if self.unit == "%":
            return f"{self.value_text(mean)} ± {self.value_text(std)}"
        return f"{self.number_text(mean)} ± {self.spread_text(std)} {self.unit}".rstrip()

    def gap_text(self, gap: float) -> str:
        """How far two values lie apart: `0.52 points` of a percentage, `0.3 dB`."""
        number = f"{100 * gap:.2f} points" if self.unit == "%" else f"{_plain_text(gap, 3)} {self.unit}"
        return number.rstrip()


def _plain_text(value: float, digits: int, sign: str = "") -> str:
    """So many digits, and all before the point of a number below 1e9."""
    whole = len(f"{abs(value):.0f}") if abs(value) < 1e9 else 0
    return f"{value:{sign}.{max(digits, whole)}g}"


def parse_metrics(metrics: Sequence[str | Metric] | str) -> tuple[Metric, ...]:
    """A task's metrics, the ranking one first; UserError if there is none, or two share a name."""
    if isinstance(metrics, str | Metric):
        metrics = (metrics,)
    if not isinstance(metrics, Iterable):
        raise UserError(f"the task's metrics are {metrics!r}; name each as text, such as 'mIoU, %'")
    parsed = tuple(Metric.parse(metric) if isinstance(metric, str) else metric for metric in metrics)
    if wrong := [metric for metric in parsed if not isinstance(metric, Metric)]:
        raise UserError(f"the task's metrics hold a {type(wrong[0]).__name__}; name each as text, such as 'mIoU, %'")
    if not parsed:
        raise UserError("the task's metrics are empty; name the one that ranks, such as 'mIoU, %'")
    names = [metric.name for metric in parsed]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f"the task has two metrics called {doubled[0]!r}; give each a name of its own")
    return parsed


ACCURACY = Metric(name="accuracy", unit="%", counted=True)
"""Top-1, of the built-in task; a metric of the same name that a user declares is not equal to it."""
