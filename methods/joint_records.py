"""Which methods go together, and the record of what they make: `first+second`, `a-or-b`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from methods.method_info import MethodInfo
from methods.record import MethodRecord, joint_options
from models.deferred_code import DeferredCode
from models.errors import UserError

_COMPOSED = DeferredCode("methods.compose:Composed")
_CHOICE = DeferredCode("methods.choice:Choice")


def compose_records(records: Sequence[MethodRecord], registered: Iterable[MethodInfo]) -> MethodRecord:
    """Record and factory of a composition; UserError if the methods do not go together."""
    infos = [info for info, _ in records]
    name = "+".join(info.name for info in infos)
    if [info.place for info in infos] != ["first", "second"]:
        raise UserError(f"methods cannot be composed as {name!r}: {how_to_compose(registered)}")
    first, second = infos
    info = MethodInfo(
        name=name,
        summary=f"{first.summary}; then {second.summary}",
        source=f"{first.source}; {second.source}",
        plain_layers=first.plain_layers and second.plain_layers,
        needs_calibration=first.needs_calibration or second.needs_calibration,
        has_centroids=second.has_centroids,
        options=joint_options(infos),
    )
    return info, partial(_COMPOSED, info, records)


def how_to_compose(registered: Iterable[MethodInfo]) -> str:
    """A sentence on which methods go together."""
    by_place: dict[str | None, list[str]] = {"first": [], "second": []}
    for info in registered:
        by_place.setdefault(info.place, []).append(info.name)
    first, second = (", ".join(by_place[place]) for place in ("first", "second"))
    return (
        f"one of {first} comes first and one of {second} second, as in l1+kse; several second ones are tried layer by "
        "layer, as in tucker-or-kse or obs+tucker-or-kse"
    )


def choose_records(records: Sequence[MethodRecord]) -> MethodRecord:
    """Record and factory of a choice; UserError if its members do not go together."""
    infos = [info for info, _ in records]
    name = "-or-".join(info.name for info in infos)
    if any(info.place != "second" for info in infos):
        narrow = [info.name for info in infos if info.place != "second"]
        raise UserError(f"methods cannot be chosen from as {name!r}: {', '.join(narrow)} does not work layer by layer")
    if len({info.name for info in infos}) < len(infos):
        raise UserError(f"methods cannot be chosen from as {name!r}: each is to be named once")
    info = MethodInfo(
        name=name,
        summary="layer by layer, one of: " + "; ".join(f"{info.name}, {info.summary}" for info in infos),
        source="; ".join(info.source for info in infos),
        plain_layers=all(info.plain_layers for info in infos),
        needs_calibration=True,
        has_centroids=any(info.has_centroids for info in infos),
        place="second",
        options=joint_options(infos),
    )
    return info, partial(_CHOICE, info, records)
