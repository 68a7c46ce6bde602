"""How a ledger uses Optuna's studies and trials: one study per task and kind of judgement, one trial per outcome."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from models.tasks.metric import Metric
from search.candidate import Candidate
from search.ledger.record import SCHEMA, Record

RECORD = "record"  # the attribute of a trial that holds everything
METRIC_NAMES = "study:metric_names"  # where Study.set_metric_names puts them
FACT = "fact:"  # what the names of a task's facts begin with among its study's attributes
OWNER = "ratio-search"  # the attribute of a study that says whose it is


def study_name(task: str, title: str, kind: str) -> str:
    """What a study is called in `optuna-dashboard`."""
    return f"{title} [{task[:8]}]{' / ' + kind if kind else ''}"


def judgement_kind(candidate: Candidate) -> str:
    """The kind of judgement, each a study of its own; candidates of a search have none."""
    if candidate.judge == "test":
        return "test"
    if candidate.until is not None:
        return "rungs"
    return "sensitivity" if candidate.recipe.epochs == 0 and candidate.images is not None else ""


def study_owner(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Task and title that a study's attributes name; empty if it is none of ours."""
    owner = attributes.get(OWNER)
    return owner if isinstance(owner, dict) and isinstance(owner.get("task"), str) else {}


def create_study(storage: BaseStorage, name: str, task: str, title: str, metric: Metric) -> int:
    """The id of the study called `name`; made if another search has not made it meanwhile."""
    try:
        direction = StudyDirection.MINIMIZE if metric.lower_is_better else StudyDirection.MAXIMIZE
        study = storage.create_new_study([StudyDirection.MINIMIZE, direction], name)
    except DuplicatedStudyError:
        study = storage.get_study_id_from_name(name)  # its maker may have been killed before the next line
    storage.set_study_user_attr(study, OWNER, {"schema": SCHEMA, "task": task, "title": title})
    storage.set_study_system_attr(study, METRIC_NAMES, ["FLOPs", metric.name])
    return study


def finished_trial(record: Record) -> FrozenTrial:
    """The record as a finished trial, for the dashboard's plots; the attribute alone is ever read back."""
    outcome, now = record.outcome, datetime.now()
    judged = outcome.status == "ok" and outcome.flops is not None and outcome.score is not None
    trial = create_trial(
        state=TrialState.COMPLETE if judged else TrialState.FAIL,
        values=[float(outcome.flops or 0), float(outcome.score or 0)] if judged else None,
        user_attrs={RECORD: record.to_json()},
    )
    trial.datetime_start = now - timedelta(seconds=outcome.seconds)
    trial.datetime_complete = now
    return trial
