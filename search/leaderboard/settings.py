"""The settings of leaderboards and of the judging anew of their rows."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from models.settings import NumberText, Option, Settings
from search.settings.config import RunConfig
from search.settings.setting import declare_settings

Format = Literal["table", "csv", "md", "tex", "html", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
_REPEATABLE = Option(repeatable=True)


class LeaderboardSettings(Settings):
    """Which tasks and rows are shown, in which order."""

    task: Annotated[tuple[str, ...], _REPEATABLE] = ()
    """Show these tasks alone, by title or fingerprint; repeatable."""
    method: Annotated[tuple[str, ...], _REPEATABLE] = ()
    """Show these methods alone, under the ranks that they have among all; repeatable."""
    strategy: Annotated[tuple[str, ...], _REPEATABLE] = ()
    """Show these strategies alone, likewise; repeatable."""
    target: Annotated[tuple[NumberText, ...], _REPEATABLE] = ()
    """Show these targets alone, written as they were asked for; repeatable."""
    sort: str | None = None
    """Sort by this column of the CSV; with - before it, falling."""
    reported: bool = False
    """Show the figures of papers beside: labelled, not ranked."""


class VerifySettings(Settings):
    """Which row's stored weights are judged on the test set again."""

    row: str
    """The name of a leaderboard's row."""


class LeaderboardFileSettings(Settings):
    """Where the command line puts a leaderboard."""

    format: Format = "table"
    """Form in which it is written."""
    to: Annotated[
        str | None, Option(metavar="PATH", default="<results>/leaderboard.html for html, else the screen")
    ] = None
    """File to write."""
    force: bool = False
    """Replace the file if it is there."""
    verify: str | None = None
    """Name of a row whose stored weights are judged on the test set again."""


_PLACE = declare_settings(RunConfig, "results", "ledger")
LEADERBOARD = {**declare_settings(LeaderboardSettings), **_PLACE}
VERIFY = {
    **declare_settings(VerifySettings),
    "task": LEADERBOARD["task"],
    **declare_settings(RunConfig, "device"),
    **_PLACE,
}
LEADERBOARD_COMMAND = {**LEADERBOARD, **declare_settings(LeaderboardFileSettings), "device": VERIFY["device"]}
