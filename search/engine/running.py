"""What searches and comparisons share while they run: who watches the outcomes, and whose folder it is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from models.errors import UserError, commonest_reason
from models.paths import check_utf8_names
from models.task import Task
from search.candidate import Outcome
from search.engine.run_file import RUN_FILE, DamagedRunError, described_searches, has_run_file, read_run_file
from search.engine.runs import PARTS, SCHEMA
from search.files.atomic import atomic_write, held, writing
from search.files.output_file import check_output_folder
from search.judge.evaluate import SPARED
from search.results.tables import Dense
from search.settings.shell import option_text
from search.strategies.contract import Proposal
from search.terminal.progress import Progress

HOPELESS = 10  # so many failures without a success end a search


class Watch:
    """A conductor's observer: shows outcomes, says what is odd, stops what is hopeless."""

    def __init__(self, progress: Progress, stop: threading.Event, tell: Callable[[str], None]) -> None:
        self._progress, self._tell = progress, tell
        self._doubts = Doubts(stop)

    def __call__(self, proposal: Proposal, outcome: Outcome, known: bool) -> None:
        self._progress.finished(proposal, outcome, known)
        self._doubts(proposal, outcome, known)
        if not known and began_again(proposal, outcome):
            self._tell(f"what a rung of {proposal.strategy} left was gone: fine-tuned again from the start")

    def check(self) -> None:
        """UserError if nothing but failures came of it."""
        self._doubts.check()


class Doubts:
    """Stops a search whose every candidate fails; measurements of a scan are counted apart."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._failures: dict[bool, list[str]] = {True: [], False: []}  # scan or not -> reasons
        self._successes = {True: 0, False: 0}

    def __call__(self, proposal: Proposal, outcome: Outcome, known: bool) -> None:
        scan = proposal.stage == "scan"
        if outcome.status == "ok":
            self._successes[scan] += 1
        else:
            self._failures[scan].append(outcome.reason or "no reason given")
        if not known and not self._successes[scan] and len(self._failures[scan]) >= HOPELESS:
            self._stop.set()

    def check(self) -> None:
        """UserError if nothing but failures came of the search."""
        for scan, what in ((False, "candidate"), (True, "measurement of the scan")):
            failures = self._failures[scan]
            if failures and not self._successes[scan]:
                raise UserError(
                    f"every {what} failed, {len(failures)} in all, most often so: {commonest_reason(failures)}; "
                    "change what is at fault, or judge them again with --resume and --retry-failed"
                )


def began_again(proposal: Proposal, outcome: Outcome) -> bool:
    """Whether a rung should have gone on from the one before, and could not."""
    return proposal.after > 0 and outcome.status == "ok" and SPARED not in outcome.notes


def warn(console: Console, text: str) -> None:
    """A warning on a line of its own, above the live table."""
    console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def check_run_folder(folder: Path, config: BaseModel) -> None:
    """Refuse, before anything is loaded, a run whose files could not be written or read back; nothing is made.

    Raises:
        UserError: they could not.
    """
    check_utf8_names(folder, config.model_dump(mode="json"))
    if has_run_file(folder):
        advice = "a run goes on in its own folder: make it writable, or copy it to another place and resume the copy"
    else:
        advice = "choose another folder with --results"
    # Missing folders are not made to try: another search that starts at the same moment may be about to use them.
    check_output_folder(next(place for place in (folder, *folder.absolute().parents) if place.exists()), advice)


@contextmanager
def alone_in(folder: Path, config: BaseModel) -> Iterator[None]:
    """The folder is this run's while this lasts; UserError if it is another's, running or done with other settings."""
    with writing(folder, "choose another folder with --results"):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder))
        except OSError as error:
            raise UserError(f"a search is running in {folder}; wait for it, or give this one another --name") from error
        refuse_other(folder, config)
        yield


def refuse_other(folder: Path, config: BaseModel) -> None:
    """UserError if the folder holds a run of other settings, which this one would overwrite."""
    record = recorded(folder)
    try:
        described_searches(folder, record)
    except DamagedRunError:  # or there is none yet
        return
    try:
        same = _settings(type(config).model_validate(record["config"])) == _settings(config)
    except (ValueError, RecursionError):  # of another version or kind
        same = False
    if not same:
        raise UserError(
            f"{folder} holds a run with other settings; give this one another --name, "
            f"or go on with that one by {option_text('--resume', folder)}"
        )


def _settings(config: BaseModel) -> Any:
    """Everything but where results lie: a run may be resumed from another folder."""
    return _without_results(config.model_dump(mode="json"))


def _without_results(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_results(each) for name, each in value.items() if name != "results"}
    return [_without_results(each) for each in value] if isinstance(value, list) else value


def write_record(
    folder: Path, config: BaseModel, task: Task, dense: Dense, facts: Mapping[str, str], status: str, **more: Any
) -> None:
    """`run.json`: every input, versions, host, and how far it came.

    Args:
        facts: of the host and versions.
        more: what a search has to say besides.
    """
    record = {
        "schema": SCHEMA,
        "status": status,
        "created": recorded(folder).get("created") or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": config.model_dump(mode="json"),
        "fingerprint": task.fingerprint,
        PARTS: task.parts,
        "dense": asdict(dense),
        **more,
        "data": asdict(task.info),
        "notices": list(task.notices),
        "host": facts,
    }
    with writing(folder, "free space or make it writable"):
        atomic_write(folder / RUN_FILE, json.dumps(record, indent=2) + "\n")


def recorded(folder: Path) -> dict[str, Any]:
    """What the folder's `run.json` says; empty if there is none, or a damaged one, which the run then writes anew.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        return read_run_file(folder) if has_run_file(folder) else {}
    except DamagedRunError:
        return {}
