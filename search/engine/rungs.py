"""Rungs: many candidates are judged early, few are fine-tuned to the end (asynchronous successive halving).

A rung breaks the recipe's fine-tune off after some epochs and judges what is there. Those who go on do so from their
weights, optimizer and learning rate, so that the last rung is exactly the plain candidate: same key, same outcome.
Who goes on is for Ray Tune's ASHA to say, with workers as without. It is told a batch's outcomes in the order of its
proposals, so the same seed gives the same survivors whoever finishes first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from models.errors import UserError
from models.settings import setting_name
from search.allocation.targets import Target
from search.candidate import Candidate, Outcome
from search.settings.config import Rungs
from search.strategies.contract import Program, Proposal
from search.strategies.registry import find_strategy, strategy_infos

Discard = Callable[[Candidate], None]
"""Called with a candidate (whole) that no later rung goes on from."""


class Asha:
    """Ray Tune's scheduler, asked about candidates that are judged at rungs 0, 1, ... and compared with each other."""

    def __init__(self, rungs: Rungs) -> None:
        # Imported here for start-up time alone: Ray takes a second.
        from search.dispatch.ray_environment import tune

        # ASHA places rungs at factor**k < max_t, computing k with logarithms; max_t lies half a power above the last
        # rung so that rounding cannot drop it.
        self._factor, self._stop = rungs.reduction, tune.schedulers.TrialScheduler.STOP
        last = rungs.reduction ** (len(rungs.epochs) - 0.5)
        self._scheduler: Any = tune.schedulers.AsyncHyperBandScheduler(
            time_attr="time", metric="worth", mode="max", max_t=last, grace_period=1, reduction_factor=self._factor,
            stop_last_trials=False,
        )  # fmt: skip
        self._names = 0

    def add_trial(self) -> SimpleNamespace:
        """A new candidate, by what the scheduler knows it by."""
        trial = SimpleNamespace(trial_id=str(self._names))
        self._names += 1
        self._scheduler.on_trial_add(None, trial)
        return trial

    def goes_on(self, trial: SimpleNamespace, rung: int, worth: float) -> bool:
        """Whether what it is worth is in the upper part of those that were judged at this rung so far."""
        # A quarter of a power above the rung: ASHA compares the time with factor**rung, which rounding may raise.
        result = {"time": self._factor ** (rung + 0.25), "worth": worth}
        return bool(self._scheduler.on_trial_result(None, trial, result) != self._stop)


def climb_rungs(program: Program, rungs: Rungs, discard: Discard) -> Program:
    """The program, each of its candidates judged rung by rung; a stopped one's outcome is that of its last rung.

    Candidates of one target are compared with each other; measurements and those that stand alone are judged as ever.
    """
    rivals: dict[Target | None, Asha] = {}
    try:
        batch = next(program)
        while True:
            outcomes = yield from _climb_batch(batch, rungs, rivals, discard)
            batch = program.send(outcomes)
    except StopIteration:
        return


def check_samples(names: Sequence[str], rungs: Rungs | None) -> None:
    """UserError if there are rungs, but no strategy whose candidates they could decide between."""
    if rungs is None or any(find_strategy(name)[0].samples for name in names):
        return
    able = ", ".join(name for name, info in strategy_infos().items() if info.samples)
    raise UserError(
        f"{setting_name('rungs')} decides between the candidates of strategies that sample, and {', '.join(names)} has "
        f"all of its own fine-tuned to the end; add one of {able}, or leave {setting_name('rungs')} out"
    )


@dataclass
class _Climber:
    """A proposal on its way up."""

    index: int
    proposal: Proposal
    asha: Asha
    trial: Any

    def proposal_at(self, epochs: float | None, after: float) -> Proposal:
        """The proposal to judge it at a rung, the last one if `epochs` is None."""
        if epochs is None:
            return replace(self.proposal, after=after)
        candidate = self.proposal.candidate.model_copy(update={"until": epochs})
        return replace(self.proposal, candidate=candidate, stage="rung", after=after)

    def goes_on(self, rung: int, outcome: Outcome) -> bool:
        return outcome.worth is not None and self.asha.goes_on(self.trial, rung, outcome.worth)


def _climb_batch(
    batch: Sequence[Proposal], rungs: Rungs, rivals: dict[Target | None, Asha], discard: Discard
) -> Generator[list[Proposal], list[Outcome], list[Outcome]]:
    """The outcomes of a batch, of each proposal from the last rung it was judged at."""
    climbers: list[_Climber] = []
    for index, proposal in enumerate(batch):
        if proposal.stage == "search" and not proposal.alone:
            asha = rivals.setdefault(proposal.target, Asha(rungs))
            climbers.append(_Climber(index, proposal, asha, asha.add_trial()))
    climbing = {climber.index for climber in climbers}
    plain = [index for index in range(len(batch)) if index not in climbing]
    first_rung = [climber.proposal_at(rungs.epochs[0], 0.0) for climber in climbers]
    answers = yield [batch[index] for index in plain] + first_rung
    outcomes = dict(zip(plain, answers, strict=False))  # index in the batch -> of the last rung so far
    answers = answers[len(plain) :]
    for rung, (after, epochs) in enumerate(pairwise((*rungs.epochs, None))):
        outcomes |= {climber.index: outcome for climber, outcome in zip(climbers, answers, strict=True)}
        passed = [climber for climber, outcome in zip(climbers, answers, strict=True) if climber.goes_on(rung, outcome)]
        _discard_stopped(climbers, passed, discard)
        climbers = passed
        assert after is not None
        answers = (yield [climber.proposal_at(epochs, after) for climber in climbers]) if climbers else []
    outcomes |= {climber.index: outcome for climber, outcome in zip(climbers, answers, strict=True)}
    _discard_stopped(climbers, [], discard)
    return [outcomes[index] for index in range(len(batch))]


def _discard_stopped(before: Sequence[_Climber], after: Sequence[_Climber], discard: Discard) -> None:
    """Discard the weights of whoever was stopped, unless the same candidate goes on for another proposal."""
    needed = [climber.proposal.candidate for climber in after]
    for climber in before:
        if climber.proposal.candidate not in needed:
            discard(climber.proposal.candidate)
