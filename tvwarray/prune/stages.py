"""`StagePruner`: prune, fine-tune, judge, and on to the next stage, resumable after each.

The driver decides what is pruned when; the model is the caller's, in whatever framework::

    for each sparsity of the schedule
        scores    -> masks            ranked over all layers (`global_selections`)
        apply     -> evaluate         the metric that pruning costs
        train     -> evaluate         again, up to `retries` times, until it is accepted
        state     -> file             masks, layouts, metrics and the model, in one step

`regrow` says what becomes of weights once they are pruned. Frozen masks (False): they stay pruned,
each mask lies within the one before. Straight-through masks (True): the scores alone decide, so a
weight that the caller kept beneath the mask comes back if its score has risen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._io.safely import PathLike
from tvwarray._namespace import Array, to_host
from tvwarray._storage import HostArray
from tvwarray.prune.patterns import Pattern, PatternName
from tvwarray.prune.ranking import global_selections
from tvwarray.prune.schedule import Schedule, checked_schedule
from tvwarray.prune.scores import checked_scores
from tvwarray.prune.selection import TOLERANCE, Selection, score_kept
from tvwarray.prune.state import PruningState, StageRecord, load_state, save_state

Masks = dict[str, HostArray]

Accept = Callable[[float, float], bool]
"""Says whether the first metric will do, the second being that of the dense model."""

_MOST_SELECTIONS: Final = 6
"""How often a frozen stage may ask its pattern again to meet the sparsity."""


class Model(Protocol):
    """What `StagePruner` needs of the model to prune. Layers are named, (outputs, inputs) each."""

    def scores(self) -> Mapping[str, Array]:
        """Return what each weight is worth, measured on the model as it is."""
        ...

    def apply(self, masks: Masks) -> None:
        """Compute with these weights alone from now on; bool (outputs, inputs) for each layer."""
        ...

    def train(self, record: StageRecord) -> None:
        """Fine-tune under the masks; `record` says the stage and the attempt."""
        ...

    def evaluate(self) -> float:
        """Return the metric; more is better."""
        ...

    def state(self) -> Mapping[str, Array]:
        """Return the weights, and whatever else training goes on from, as arrays by name."""
        ...

    def restore(self, state: Mapping[str, HostArray]) -> None:
        """Go back to what `state` returned."""
        ...


class StagePruner:
    """Prune a model in stages.

    Parameters
    ----------
    schedule : sequence of float
        The sparsity of each stage, ascending: `one_shot`, `paper_stages`, `cubic`, or a list.
    pattern : str or Pattern
        As `global_masks` takes it. Patterns with 2:4 reach 0.5 and more; the schedule starts there.
    regrow : bool
        Whether a pruned weight may come back: straight-through masks. Otherwise they are frozen,
        and where no pattern within the mask before meets a sparsity, the nearest one is taken; the
        record says which.
    accept : float or callable, optional
        When a stage is good enough. A number: the metric has lost no more than this against the
        dense model. A function of (metric, metric of the dense model): it returns True. By default
        every stage is accepted.
    retries : int
        How often a stage that is not accepted is fine-tuned again. When that does not help either,
        the model goes back to the stage before, and pruning ends there.
    state_file : path, optional
        Where the state is saved after each stage, in one step. If the file exists, `run` goes on
        from it; its schedule, pattern and options must be these.
    callbacks : sequence of callable
        Each is called with a `StageRecord` after every attempt of a stage.
    **ranking
        Further options of `global_selections`: ``scope``, ``floor``, ``normalize``, ...

    Attributes
    ----------
    records : tuple of StageRecord
        The stages done, the one that was refused last.
    selections : dict of str to Selection
        Mask and layout of each layer after the last stage accepted: what `sparsify_model` takes.
    dense : float or None
        The metric before the first stage.

    Raises
    ------
    FormatError
        If the schedule does not ascend in 0 to 1, `retries` is negative, or the state file is
        damaged or belongs to another pruning.

    Examples
    --------
    A model that cannot be trained, in NumPy; the tests have one in PyTorch and one in JAX.

    >>> import numpy as np
    >>> from tvwarray import prune
    >>> class Fixed:
    ...     def __init__(self):
    ...         rng = np.random.default_rng(0)
    ...         self.weights = {"fc": rng.standard_normal((256, 256))}
    ...     def scores(self): return {n: prune.magnitude(w) for n, w in self.weights.items()}
    ...     def apply(self, masks): self.masks = masks
    ...     def train(self, record): pass
    ...     def evaluate(self): return 0.0
    ...     def state(self): return self.weights
    ...     def restore(self, state): self.weights = dict(state)
    >>> pruner = prune.StagePruner((0.5, 0.75), "tvw", callbacks=[
    ...     lambda r: print(f"{r.target} -> {r.sparsity:.2f}")])
    >>> selections = pruner.run(Fixed())
    0.5 -> 0.50
    0.75 -> 0.75
    """

    def __init__(
        self,
        schedule: Schedule | Sequence[float],
        pattern: PatternName | Pattern = "tvw",
        *,
        regrow: bool = False,
        accept: float | Accept | None = None,
        retries: int = 0,
        state_file: PathLike | None = None,
        callbacks: Sequence[Callable[[StageRecord], None]] = (),
        **ranking: Any,
    ) -> None:
        if retries < 0:
            raise FormatError(f"retries is {retries}; it is 0 or more.")
        self.schedule = checked_schedule(tuple(schedule))
        self.pattern, self.regrow, self.retries = pattern, bool(regrow), retries
        self.accept, self.callbacks, self.state_file = accept, tuple(callbacks), state_file
        self._ranking = ranking
        self._state = PruningState(self._plan())
        if state_file is not None and os.path.exists(state_file):
            self._state = self._resumed(state_file)

    @property
    def records(self) -> tuple[StageRecord, ...]:
        """The stages done so far."""
        return self._state.records

    @property
    def selections(self) -> dict[str, Selection]:
        """Mask and layout of each layer, as of the last stage accepted; empty before the first."""
        return dict(self._state.selections)

    @property
    def dense(self) -> float | None:
        """The metric before the first stage."""
        return self._state.dense

    @property
    def finished(self) -> bool:
        """Whether there is no stage left to run, or one was refused."""
        done = self.records
        return len(done) == len(self.schedule) or bool(done and not done[-1].accepted)

    def run(self, model: Model) -> dict[str, Selection]:
        """Run the stages that are left.

        Parameters
        ----------
        model : Model
            The caller's. It ends with the weights and masks of the last stage accepted.

        Returns
        -------
        dict of str to Selection
            Mask and layout of each layer.

        Raises
        ------
        FormatError
            If scores cannot be ranked or the pattern does not reach a sparsity. What was saved
            stays as it is.
        """
        if self._state.dense is None:
            dense = float(model.evaluate())
            self._save(replace(self._state, dense=dense, snapshot=_on_host(model.state())))
        else:
            self._go_back(model)
        while not self.finished:
            self._run_stage(model, len(self.records))
        return self.selections

    def _run_stage(self, model: Model, stage: int) -> None:
        start = time.perf_counter()
        target = self.schedule[stage]
        scores = {name: checked_scores(s) for name, s in model.scores().items()}
        selections = self._select(scores, target)
        masks = {name: s.mask for name, s in selections.items()}
        model.apply(masks)
        record = StageRecord(
            stage=stage,
            target=target,
            sparsity=_sparsity(masks),
            score_kept=score_kept(scores, masks),
            pruned=float(model.evaluate()),
            metric=None,
            attempt=0,
            accepted=False,
            seconds=0.0,
        )
        while not record.accepted and record.attempt <= self.retries:
            record = replace(record, attempt=record.attempt + 1)
            model.train(record)
            metric = float(model.evaluate())
            seconds = time.perf_counter() - start
            record = replace(record, metric=metric, accepted=self._accepts(metric), seconds=seconds)
            for callback in self.callbacks:
                callback(record)
        state = replace(self._state, records=(*self.records, record))
        if record.accepted:
            self._save(replace(state, selections=selections, snapshot=_on_host(model.state())))
        else:
            self._save(state)
            self._go_back(model)

    def _select(self, scores: Mapping[str, HostArray], target: float) -> dict[str, Selection]:
        before = self._state.selections
        if before and set(before) != set(scores):
            raise FormatError(
                f"scores are of layers {sorted(scores)}; the stage before had {sorted(before)}."
            )
        if self.regrow or not before:
            return global_selections(scores, target, self.pattern, **self._ranking)
        return self._select_frozen(scores, target, before)

    def _select_frozen(
        self, scores: Mapping[str, HostArray], target: float, before: Mapping[str, Selection]
    ) -> dict[str, Selection]:
        """Return selections within those `before`.

        A pattern keeps regions, and a region it keeps may hold weights pruned earlier: less is left
        than it was asked for. So it is asked for more until what is left meets the target.
        """
        old = {name: s.mask for name, s in before.items()}
        alive = {name: np.where(old[name], s, s.dtype.type(0)) for name, s in scores.items()}
        # (asked, realised): the dense end is the stage before, the sparse end keeps nothing.
        low: tuple[float | None, float] = (None, _sparsity(old))
        high, asked = (1.0, 1.0), target
        best, distance = dict(before), abs(_sparsity(old) - target)
        for _ in range(_MOST_SELECTIONS):
            if distance <= TOLERANCE / 2:
                break
            try:
                found = global_selections(alive, asked, self.pattern, **self._ranking)
            except FormatError:
                if asked == target:
                    raise
                break  # the pattern goes no lower
            found = {n: Selection(s.mask & old[n], s.layout) for n, s in found.items()}
            realised = _sparsity({n: s.mask for n, s in found.items()})
            if abs(realised - target) < distance:
                best, distance = found, abs(realised - target)
            if realised > target:
                high = (asked, realised)
            else:
                low = (asked, realised)
            asked = _between(low, high, target)
        return best

    def _accepts(self, metric: float) -> bool:
        if self.accept is None:
            return True
        assert self.dense is not None
        if callable(self.accept):
            return bool(self.accept(metric, self.dense))
        return metric >= self.dense - self.accept  # False where the metric is NaN

    def _go_back(self, model: Model) -> None:
        model.restore(self._state.snapshot)
        if self._state.selections:
            model.apply({name: s.mask for name, s in self._state.selections.items()})

    def _save(self, state: PruningState) -> None:
        if self.state_file is not None:
            save_state(self.state_file, state)
        self._state = state

    def _plan(self) -> dict[str, Any]:
        options = {name: repr(value) for name, value in sorted(self._ranking.items())}
        plan = {
            "schedule": list(self.schedule),
            "pattern": repr(self.pattern),
            "regrow": self.regrow,
            "ranking": {n: v for n, v in options.items() if n != "progress"},
        }
        return dict(json.loads(json.dumps(plan)))

    def _resumed(self, path: PathLike) -> PruningState:
        state, plan = load_state(path), self._plan()
        for name, value in plan.items():
            if state.plan.get(name) != value:
                raise FormatError(
                    f"{os.fspath(path)}: its {name} is {state.plan.get(name)}, not {value}.\n"
                    "Go on with the same options, or remove the file to begin anew."
                )
        return state


def _between(low: tuple[float | None, float], high: tuple[float, float], target: float) -> float:
    """Return what to ask for next, by regula falsi where both ends are known."""
    asked, realised = low
    if asked is None:
        # Nothing was asked for yet that kept too much: what is realised grows about as fast.
        return max(0.0, high[0] - (high[1] - target))
    share = (target - realised) / max(high[1] - realised, 1e-12)
    return asked + (high[0] - asked) * min(max(share, 0.1), 0.9)


def _on_host(state: Mapping[str, Array]) -> dict[str, HostArray]:
    """Return copies: training goes on in the arrays themselves."""
    return {name: np.array(to_host(x)) for name, x in state.items()}


def _sparsity(masks: Mapping[str, HostArray]) -> float:
    kept = sum(int(np.count_nonzero(m)) for m in masks.values())
    return 1.0 - kept / max(1, sum(m.size for m in masks.values()))
