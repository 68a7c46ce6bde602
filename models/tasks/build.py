"""Where users' tasks come from: a function in a file of theirs, or an object that Python code gave.

An object stays in this process and travels to workers, as networks do that are given so (`models.user.given_networks`).
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.errors import UserError
from models.task import LoaderTask, Task
from models.tasks.visible_data import digest_visible
from models.tensor_digest import digest_tensors
from models.user.calls import NO_GPU, is_gpu_missing
from models.user.code import call_user, is_user_spec, load_function, split_spec
from models.user.source_files import source_digest
from models.user.spec_names import OBJECT_PREFIX, class_of

GIVEN_TASKS: dict[str, Task] = {}
"""By the names that stand for them, of this process."""
_DIGITS = 12


def give_task(task: Task) -> str:
    """Keep a task under the name that stands for it, which is returned."""
    if not isinstance(task, Task):
        raise UserError(f"task of type {type(task).__name__} is not understood; give a models.task.Task")
    _check_parts(task)
    digest = hashlib.sha256()
    for part in (type(task), *vars(task).values()):
        if callable(part):
            digest.update(_source_of(part).encode())
    digest.update(digest_visible(task).encode())
    digest.update(digest_tensors(task.network.state_dict().items()).encode())
    # A task of loaders has no class of its own: its network's says more.
    kind = type(task.network if isinstance(task, LoaderTask) else task).__name__
    name = f"{OBJECT_PREFIX}{kind.strip('_')}@{digest.hexdigest()[:_DIGITS]}"
    GIVEN_TASKS[name] = task
    return name


def carried_tasks(spec: str | None) -> Mapping[str, Task]:
    """What a worker has to receive so that it knows this task: nothing unless it is an object."""
    return {spec: GIVEN_TASKS[spec]} if spec in GIVEN_TASKS else {}


def receive_tasks(tasks: Mapping[str, Task]) -> None:
    """Make objects known that another process has sent."""
    GIVEN_TASKS.update(tasks)


def build_task(spec: str) -> Task:
    """The task that a configuration names; UserError if there is none."""
    if not is_user_spec(spec):
        if spec not in GIVEN_TASKS:
            raise UserError(
                f"task {class_of(spec)} was given as a Python object, which no file holds; go on in Python and give it "
                "there: task=... to search.api's functions"
            )
        return GIVEN_TASKS[spec]
    try:
        task = call_user(spec, load_function(spec, "task"))
    except UserError as error:
        raise UserError(f"{error}; {NO_GPU}") if is_gpu_missing(error.__cause__) else error from error.__cause__
    if not isinstance(task, Task):
        raise UserError(f"task {spec} returned a {type(task).__name__}; it must return a models.task.Task")
    _check_parts(task)
    return task


def task_identity(spec: str) -> dict[str, object]:
    """What of a task's name belongs to its fingerprint: contents of files, never paths."""
    if not is_user_spec(spec):
        return {"task": spec}
    file, function = split_spec(spec, "task")
    return {"task": f"{source_digest(file)}:{function}"}


def _check_parts(task: Task) -> None:
    """UserError if the task lacks something that every task has."""
    for name in ("network", "example", "metrics"):
        if not hasattr(task, name):
            raise UserError(f"the task has no {name}; set it in its __init__ or as an attribute of its class")
    if not isinstance(task.network, nn.Module):
        raise UserError(f"the task's network is a {type(task.network).__name__}; it must be a torch.nn.Module")


def _source_of(part: Any) -> str:
    """A class's or function's code, or its name where that cannot be read."""
    try:
        return inspect.getsource(part)
    except (TypeError, OSError):
        return str(getattr(part, "__qualname__", type(part).__qualname__))
