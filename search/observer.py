"""What the Python interface tells whoever watches: a run, an export, a training, a row that is judged again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from search.engine.observer import RunObserver

if TYPE_CHECKING:  # what is told about, which a plan does not need
    from models.tasks.metric import Metric
    from search.engine.outcomes import RunOutcomes
    from search.export.export import Exported
    from search.kit.make_kit import Kit
    from search.leaderboard.answers import Answer
    from search.leaderboard.board import Board
    from search.leaderboard.verify import Check
    from search.report.outputs import Written

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class Observer(RunObserver):
    """It shows nothing by itself: override what is to be shown."""

    def on_files_written(self, outcomes: RunOutcomes, written: Written, boards: Sequence[Board]) -> None:
        """The files of a run are there."""

    def while_exporting(self) -> AbstractContextManager[OnStep]:
        """Entered before an export, left after it; what it gives is told of the steps of a fine-tune."""
        return nullcontext(_ignore_step)

    def on_exported(self, exported: Exported) -> None:
        """The files of an export are there."""

    def on_kit_written(self, kit: Kit) -> None:
        """The folder of a kit is there, and measured if that was asked for."""

    def while_training(self) -> AbstractContextManager[OnStep]:
        """Entered before a dense network is trained, left after it; what it gives is told of its steps."""
        return nullcontext(_ignore_step)

    def on_data_notice(self, notice: str) -> None:
        """How network and data were read, before a dense network is trained."""

    def on_trained(self, weights: Path, metric: Metric, scores: Mapping[str, float]) -> None:
        """The weights of a dense network are there."""

    def on_row_verified(self, title: str, answer: Answer, checks: Sequence[Check]) -> None:
        """A row of a leaderboard was judged again."""


def _ignore_step(done: int, steps: int) -> None:
    pass
