"""The one loop that all methods share: step, look, undo or go on, stop at the level, rewind.

A method is only its step. The loop decides how long a step is, when it was too long and when to
stop, and which of the models on the way is returned. Its rules, the same for every method:

- **Level.** Forget margins should come to the retrained level (``TargetLevel``), from either side:
  within ``TOLERANCE_NATS`` of it the loop stops.
- **Two-sided.** A step that goes beyond the level is undone and taken again with at most half the
  length, aimed at the level.
- **Per record.** Records already at or below their own target are left out of the forget batch, so
  that the easy ones are not pushed down for the sake of the others.
- **Retain guard.** A step that leaves retain accuracy more than ``MAX_RETAIN_DROP`` below that of
  the original is undone and halved, too; so is one whose numbers are not finite.
- **Step length.** Without a number in the settings it is found by rule: a step should cover about
  a quarter of the way. One that covers less than half of that doubles the next, up to 3 % of the
  weights' norm (not one that leads away); one that covers more than twice of it is undone and
  halved. Five steps that come no nearer halve it; fifteen end the loop.
- **Rewind.** The model nearest to the level is returned (the rewind of SCRUB+R, arXiv 2302.09880,
  with margins in place of the forget error). If that is the original, nothing was
  changed, and ``run_unlearning`` says so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import BatchStream, Records
from r2u_tasks.parameters import Parameters, norm, parameters_in_scope
from r2u_tasks.seeding import derive_seed, make_generator
from r2u_tasks.unlearning.contract import (
    TOLERANCE_NATS,
    StepRecord,
    TargetLevel,
    UnlearnedModel,
    target_level,
)
from r2u_tasks.unlearning.gradients import Batch, batch_of
from r2u_tasks.unlearning.scores import score_records

MAX_RETAIN_DROP = 0.02
"""Retain accuracy, 0-1, that unlearning may cost."""

MAX_STEP_FRACTION = 0.03
"""Longest step found by rule, as a fraction of the norm of the weights."""

_FIRST_STEP_FRACTION = 0.004
_STEPS_WANTED = 4
_MAX_HALVINGS = 12
_MAX_AT_GUARD = 3
_STALL = 5
_PATIENCE = 15
_RETAIN_SAMPLE = 256
_FORGET_SAMPLE = 2000


@dataclass(frozen=True, slots=True)
class StepInput:
    """What a step may use.

    Attributes:
        student: The model to change in place.
        scope: Its parameters that may move.
        number: Of the step, from 1.
        length: Euclidean length that the step should have.
        forget: Batch of records to forget that are above their target.
        forget_index: Their positions in the forget records.
        retain: Batch of records that stay; None where there are none.
    """

    student: nn.Module
    scope: Parameters
    number: int
    length: float
    forget: Batch
    forget_index: torch.Tensor
    retain: Batch | None


Step = Callable[[StepInput], float]
"""Changes the student in place and returns how far its parameters moved; 0 = no direction."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of a method, as the loop and its steps read them."""

    model: nn.Module
    retain: Records
    forget: Records
    validation: Records
    config: UnlearningConfig

    def target(self) -> TargetLevel:
        """Return the level: given by the caller, else from validation records."""
        if self.config.target_margins is not None:
            return TargetLevel(self.config.target_margins)
        return target_level(self.model, self.retain, self.forget, self.validation)

    def generator(self, purpose: str) -> torch.Generator:
        """Return a generator for one purpose of this run."""
        return make_generator(self.config.seed, "unlearning", purpose)


def unlearn_by_steps(
    name: str, step: Step, request: Request, *, spare_reached: bool = True
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by steps under the rules above.

    Args:
        name: Of the method.
        step: One step.
        request: Model, records and settings.
        spare_reached: Leave records at or below their target out of the forget batches.

    Raises:
        UnlearningError: Even the shortest step gave numbers that are not finite.
    """
    run = _Run.start(request, spare_reached=spare_reached)
    reason = run.reason_to_stop()
    while reason is None:
        reason = run.take(step) or run.reason_to_stop()
    run.rewind()
    run.student.train(request.model.training)
    return UnlearnedModel(run.student, name, run.best.step, reason, run.curve)


@dataclass(slots=True)
class _Run:
    request: Request
    target: TargetLevel
    student: nn.Module
    scope: Parameters
    watch: Watch
    stream: BatchStream | None
    length: float
    longest: float
    spare_reached: bool
    curve: list[StepRecord]
    best: StepRecord
    best_state: dict[str, torch.Tensor]
    above: torch.Tensor
    halvings: int = 0
    in_a_row: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)

    @classmethod
    def start(cls, request: Request, *, spare_reached: bool) -> _Run:
        config, target = request.config, request.target()
        student = copy.deepcopy(request.model).eval()
        scope = parameters_in_scope(student, config.parameters)
        size = norm(scope)
        automatic = config.step_size is None
        length = size * (_FIRST_STEP_FRACTION if config.step_size is None else config.step_size)
        watch = Watch.of(request, target)
        entry, above = watch.look(student, 0)
        seed = derive_seed(config.seed, "unlearning")
        retain = torch.arange(len(request.retain))
        return cls(
            request=request,
            target=target,
            student=student,
            scope=scope,
            watch=watch,
            stream=BatchStream(retain, config.batch_size, seed, "retain") if len(retain) else None,
            length=length,
            longest=size * MAX_STEP_FRACTION if automatic else 0.0,
            spare_reached=spare_reached,
            curve=[entry],
            best=entry,
            best_state=_snapshot(student),
            above=above,
            generator=request.generator("forget batches"),
        )

    def reason_to_stop(self) -> str | None:
        """Return why the loop ends here; None to go on."""
        now = self.curve[-1]
        if abs(now.distance) <= TOLERANCE_NATS:
            return "forget margins are at the level of unseen records"
        if now.distance < 0:
            return (
                "forget margins were below the level of unseen records before the first step; "
                "did the model ever learn these records?"
            )
        if now.step >= self.request.config.max_steps:
            return f"reached the bound of {now.step} steps, {now.distance:.2f} nats above the level"
        if now.step - self.best.step >= _PATIENCE:
            return (
                f"{_PATIENCE} steps came no nearer, {self.best.distance:.2f} nats above the level"
            )
        return None

    def take(self, step: Step) -> str | None:
        """Take one step, or undo it and halve the length; return why no step is left."""
        before, now = _snapshot(self.student), self.curve[-1]
        moved = step(self._input(now.step + 1))
        if moved == 0:
            return "the gradient is zero, so there is no direction"
        entry, above = self.watch.look(self.student, now.step + 1)
        problem = self._problem(entry)
        if problem is None:
            self._accept(entry, above, moved)
            return None
        self.student.load_state_dict(before)
        self.in_a_row += 1
        at_guard = self._breaks_guard(entry) and self.in_a_row > _MAX_AT_GUARD
        if at_guard or self.halvings == _MAX_HALVINGS:
            return self._give_up(problem, entry)
        self.length *= self._shortening(entry)
        self.longest = min(self.longest, self.length)
        self.halvings += 1
        return None

    def rewind(self) -> None:
        """Go back to the state nearest to the level."""
        self.student.load_state_dict(self.best_state)

    def _problem(self, entry: StepRecord) -> str | None:
        now = self.curve[-1]
        if not math.isfinite(entry.distance):
            return "numbers are not finite"
        if entry.distance < -TOLERANCE_NATS:
            return "it goes beyond the level"
        if self._breaks_guard(entry):
            return f"it costs more than {MAX_RETAIN_DROP:.0%} of retain accuracy"
        too_far = self.longest > 0 and now.distance - entry.distance > 2 * self._wanted
        if too_far and abs(entry.distance) > TOLERANCE_NATS and self.halvings < _MAX_HALVINGS / 2:
            return "it covers too much of the way"
        return None

    def _breaks_guard(self, entry: StepRecord) -> bool:
        return self.curve[0].retain_accuracy - entry.retain_accuracy > MAX_RETAIN_DROP

    def _shortening(self, entry: StepRecord) -> float:
        """Return the factor for a step that was undone: where a straight line meets the level."""
        now = self.curve[-1].distance
        if not entry.distance < -TOLERANCE_NATS:
            return 0.5
        return min(0.5, max(0.1, now / (now - entry.distance)))

    def _accept(self, entry: StepRecord, above: torch.Tensor, moved: float) -> None:
        now = self.curve[-1]
        progress, wanted = now.distance - entry.distance, min(self._wanted, now.distance)
        if 0 <= progress < wanted / 2 and moved < self.longest:
            self.length *= min(2.0, self.longest / moved)
        self.curve.append(entry)
        self.above = above
        self.in_a_row = 0
        if abs(entry.distance) < abs(self.best.distance):
            self.best, self.best_state = entry, _snapshot(self.student)
        elif self.longest > 0 and (entry.step - self.best.step) % _STALL == 0:
            self.length /= 2

    def _give_up(self, problem: str, entry: StepRecord) -> str:
        if not math.isfinite(entry.distance):
            message = "unlearning diverged: the shortest step gives numbers that are not finite"
            raise UnlearningError(message)
        left = self.curve[-1].distance
        return f"the shortest step is refused: {problem}; {left:.2f} nats above the level"

    @property
    def _wanted(self) -> float:
        return max(self.curve[0].distance / _STEPS_WANTED, TOLERANCE_NATS)

    def _input(self, number: int) -> StepInput:
        request, size = self.request, self.request.config.batch_size
        index = torch.arange(len(request.forget))
        if self.spare_reached and bool(self.above.any()):
            index = index[self.above]
        if len(index) > size:
            index = index[torch.randperm(len(index), generator=self.generator)[:size]]
        retain = None if self.stream is None else batch_of(request.retain, self.stream.next())
        return StepInput(
            student=self.student,
            scope=self.scope,
            number=number,
            length=self.length,
            forget=batch_of(request.forget, index),
            forget_index=index,
            retain=retain,
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """The records that are looked at after each step: samples where there are many."""

    forget: Records
    retain: Records
    target: TargetLevel
    positions: torch.Tensor
    n_forget: int

    @classmethod
    def of(cls, request: Request, target: TargetLevel) -> Watch:
        """Draw the samples of a request."""
        retain = _sample(len(request.retain), _RETAIN_SAMPLE, request.generator("retain sample"))
        forget = _sample(len(request.forget), _FORGET_SAMPLE, request.generator("forget sample"))
        return cls(
            _pick(request.forget, forget),
            _pick(request.retain, retain),
            TargetLevel(target.margins[forget]),
            forget,
            len(request.forget),
        )

    def look(self, student: nn.Module, step: int) -> tuple[StepRecord, torch.Tensor]:
        """Return the state, and which forget records are above their target, ``[B]``."""
        forget = score_records(student, self.forget)
        entry = StepRecord(
            step,
            forget.accuracy,
            score_records(student, self.retain).accuracy,
            self.target.distance(forget.margins),
        )
        above = torch.ones(self.n_forget, dtype=torch.bool)  # those outside the sample: unknown
        above[self.positions] = forget.margins > self.target.margins
        return entry, above


def _sample(n_records: int, size: int, generator: torch.Generator) -> torch.Tensor:
    if n_records <= size:
        return torch.arange(n_records)
    return torch.randperm(n_records, generator=generator)[:size].sort().values


def _pick(records: Records, index: torch.Tensor) -> Records:
    return Records(records.inputs[index], records.labels[index], records.ids[index.numpy()])


def _snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
