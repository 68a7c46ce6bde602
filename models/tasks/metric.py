"""What a task is judged by: the metric's name, its unit, and which way is better."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from models.errors import UserError

_LOWER, _HIGHER = "lower is better", "higher is better"


class Metric(BaseModel):
    """A metric; of a task's metrics the first one ranks.

    As text: `mIoU`, `PSNR, dB`, `MAE, mm, lower is better`. A metric whose unit is `%` is a share, 0 to 1, and shown
    as a percentage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str = ""
    lower_is_better: bool = False

    @classmethod
    def parse(cls, text: str) -> Metric:
        """A metric from its text; UserError if it has no name, or says more than unit and direction."""
        name, *rest = (word.strip() for word in text.split(","))
        directions = [word for word in rest if word.lower() in (_LOWER, _HIGHER)]
        units = [word for word in rest if word.lower() not in (_LOWER, _HIGHER)]
        if not name or len(directions) > 1 or len(units) > 1:
            raise UserError(f"metric {text!r} is not understood; write NAME, or NAME, UNIT, {_LOWER}")
        return cls(name=name, unit=units[0] if units else "", lower_is_better=_LOWER in map(str.lower, directions))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.name, self.unit, _LOWER if self.lower_is_better else "")))

    def worth(self, value: float) -> float:
        """The value, or its negative where lower is better: the larger worth is the better one."""
        return -value if self.lower_is_better else value

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be shown in the unit."""
        return 100.0 if self.unit == "%" else 1.0

    def value_text(self, value: float, digits: int = 2) -> str:
        """A value with its unit: `91.25 %`, `31.4 dB`."""
        return f"{self.scale * value:.{digits}f} {self.unit}".rstrip()

    def gap_text(self, gap: float, digits: int = 2) -> str:
        """A difference of two values: `0.52 points` of a percentage, `0.3 dB`."""
        unit = "points" if self.unit == "%" else self.unit
        return f"{self.scale * gap:.{digits}f} {unit}".rstrip()


ACCURACY = Metric(name="accuracy", unit="%")
