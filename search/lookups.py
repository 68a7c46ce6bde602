"""Use cases that look up what is there: leaderboards, their rows judged again, and what goes by a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.leaderboard.settings import LEADERBOARD, VERIFY
from search.ledger.location import public_location, usual_ledger
from search.screens import Show, observer_of
from search.settings.choices import check_choices
from search.settings.keywords import takes_keywords

if TYPE_CHECKING:  # each function imports what it needs
    import pandas as pd

    from search.api_objects import Leaderboard, Verified


@takes_keywords(LEADERBOARD)
def leaderboard(**settings: Any) -> Leaderboard:
    """What is known of tasks: every method and strategy on the test set, ranked as far as the noise allows.

    Raises:
        UserError: no such ledger, task, column, or no row is left.
    """
    from search.api_objects import Leaderboard
    from search.leaderboard.board import find_tasks, read_boards
    from search.leaderboard.views import Filter, select_rows, sort_rows

    location = _ledger_location(settings)
    boards = read_boards(location, find_tasks(location, settings["task"]), Path(settings["results"]))
    boards = select_rows(boards, Filter(settings["method"], settings["strategy"], settings["target"]))
    if settings["sort"]:
        boards = [
            dataclasses.replace(board, frame=sort_rows(board.frame, settings["sort"], board.metric)) for board in boards
        ]
    return Leaderboard(boards, settings["reported"])


def _ledger_location(settings: Mapping[str, Any]) -> str:
    return public_location(settings["ledger"] or usual_ledger(settings["results"]).absolute())


@takes_keywords(VERIFY)
def verify(row: str, *, show: Show = True, **settings: Any) -> Verified:
    """Judge a leaderboard row's stored weights on the test set again.

    Raises:
        UserError: no such row, or its weights or task are not there any more.
    """
    from search.api_objects import Verified
    from search.leaderboard.board import find_tasks
    from search.leaderboard.verify import find_row, verify_answer
    from search.ledger.ledger import Ledger
    from search.results.figure_text import plain_values

    check_choices(device=settings["device"])
    location, results = _ledger_location(settings), Path(settings["results"])
    with ExitStack() as stack:
        tasks = find_tasks(location, settings["task"])
        ledgers = [stack.enter_context(Ledger.open_existing(location, name)) for name in tasks]
        ledger_of_row, answer = find_row(ledgers, row)
        checks = verify_answer(ledger_of_row, answer, results, settings["device"])
    observer_of(show).on_row_verified(ledger_of_row.title, answer, checks)
    holds = all(check.holds for check in checks)
    seeds = [plain_values(check.record()) for check in checks]
    record = {"row": answer.standing.row, "task": ledger_of_row.task, "holds": holds, "seeds": seeds}
    return Verified(holds, record)


def methods() -> pd.DataFrame:
    """The compression methods: name, summary, source, what they can do, their options' defaults."""
    from methods import registry

    return _records_table(registry.methods())


def strategies() -> pd.DataFrame:
    """The search strategies: name, summary, source, what they need."""
    from search.strategies.registry import strategy_infos

    return _records_table(strategy_infos())


def networks() -> list[str]:
    """The networks that go by a name: ours, then torchvision's."""
    from models.networks.catalog import network_names

    return network_names()


def _records_table(records: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([dataclasses.asdict(record) for record in records.values()])
