"""`StagePruner` and its state file, with models in NumPy that count what is asked of them.

Axes: frozen and straight-through masks, patterns, accepted and refused stages, interruption at any
stage, damage to the file. Training itself is in ``frameworks/``.
"""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvwarray
from tvwarray import FormatError, prune
from tvwarray.prune.state import load_state, save_state

SHAPES = {"up": (96, 64), "down": (64, 96)}


class Numbers:
    """A model whose training moves the weights, the same way each time."""

    def __init__(self, metrics=None):
        rng = np.random.default_rng(0)
        self.weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
        self.masks = None
        self.trained = []
        self.metrics = list(metrics or [])
        self.interrupt_at = None

    def scores(self):
        return {n: prune.magnitude(w) for n, w in self.weights.items()}

    def apply(self, masks):
        self.masks = {n: m.copy() for n, m in masks.items()}

    def train(self, record):
        if self.interrupt_at == (record.stage, record.attempt):
            raise KeyboardInterrupt
        self.trained.append((record.stage, record.attempt))
        rng = np.random.default_rng([record.stage, record.attempt])
        for n, w in self.weights.items():
            self.weights[n] = w + rng.standard_normal(w.shape).astype(np.float32)

    def evaluate(self):
        return self.metrics.pop(0) if self.metrics else 1.0

    def state(self):
        return self.weights

    def restore(self, state):
        self.weights = {n: np.array(x) for n, x in state.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, selection in a.items():
        np.testing.assert_array_equal(selection.mask, b[name].mask)
        assert (selection.layout is None) == (b[name].layout is None)
        if selection.layout is not None:
            for t in range(selection.layout.num_tiles):
                for mine, other in zip(
                    selection.layout.tile(t), b[name].layout.tile(t), strict=True
                ):
                    np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("pattern", ["tvw", "tw", "ew", "tew", prune.BlockWise(16)])
@pytest.mark.parametrize("regrow", [False, True])
def test_stages_meet_their_sparsities(pattern, regrow):
    seen = []
    model = Numbers()
    pruner = prune.StagePruner(
        (0.5, 0.75, 0.9), pattern, regrow=regrow, callbacks=[seen.append], tile_rows=32
    )
    masks = []
    train = model.train
    model.train = lambda record: (masks.append(model.masks), train(record))
    selections = pruner.run(model)
    assert pruner.finished
    assert seen == list(pruner.records)
    assert [r.target for r in seen] == [0.5, 0.75, 0.9]
    # 96 x 64: a whole column of a tile is half a percent of the model, a block two percent.
    step = 0.03 if isinstance(pattern, prune.BlockWise) else 0.011
    for record, mask in zip(seen, masks, strict=True):
        kept = sum(int(m.sum()) for m in mask.values())
        assert record.sparsity == pytest.approx(1 - kept / (2 * 96 * 64))
        assert abs(record.sparsity - record.target) <= step
    for name, selection in selections.items():
        np.testing.assert_array_equal(selection.mask, model.masks[name])
    nested = all(
        not (later[n] & ~earlier[n]).any() for earlier, later in pairwise(masks) for n in later
    )
    assert nested is not regrow  # training moves weights so far that some come back


def test_a_frozen_stage_keeps_the_best_of_what_is_left():
    """Element-wise, the frozen mask is the top of the weights that were still there."""
    model = Numbers()
    pruner = prune.StagePruner((0.5, 0.75), "ew", floor=0)
    before = {}
    train = model.train

    def note(record):
        before[record.stage] = {n: np.abs(w) * model.masks[n] for n, w in model.weights.items()}
        train(record)

    model.train = note
    pruner.run(model)
    alive = np.concatenate([w.ravel() for w in before[1].values()])
    assert np.count_nonzero(alive) == alive.size // 4


def test_a_frozen_stage_just_above_what_the_pattern_reaches():
    """What a second 2:4 mask leaves of the first is less than half, and no 2:4 mask keeps more."""
    pruner = prune.StagePruner((0.5, 0.52), "tvw", tile_rows=32)
    pruner.run(Numbers())
    assert [r.target for r in pruner.records] == [0.5, 0.52]
    assert pruner.records[1].sparsity >= pruner.records[0].sparsity
    assert abs(pruner.records[1].sparsity - 0.52) <= 0.021


@given(st.lists(st.floats(-1, 2), min_size=7, max_size=7), st.integers(0, 2))
def test_a_stage_is_retried_then_refused(metrics, retries):
    """Metrics come in the order dense, (pruned, attempt ...) a stage; the oracle walks the list."""
    dense, rest = metrics[0], iter(metrics[1:])
    expected, refused = [], False
    for stage in range(2):
        if refused:
            break
        next(rest)
        for attempt in range(1, retries + 2):
            metric = next(rest, 1.0)
            ok = metric >= dense - 0.25
            expected.append((stage, attempt, ok))
            if ok:
                break
        refused = not expected[-1][2]
    model = Numbers(metrics)
    seen = []
    pruner = prune.StagePruner(
        (0.5, 0.75), "ew", accept=0.25, retries=retries, callbacks=[seen.append]
    )
    pruner.run(model)
    assert [(r.stage, r.attempt, r.accepted) for r in seen] == expected
    assert pruner.finished
    accepted = [r for r in pruner.records if r.accepted]
    assert len(pruner.records) - len(accepted) == refused
    if not accepted:
        assert pruner.selections == {}
    elif refused:
        assert sum(int(m.sum()) for m in model.masks.values()) == 96 * 64


def test_a_refused_stage_leaves_the_model_as_it_was():
    kept = {}
    model = Numbers([1.0, 0.9, 0.95, 0.1, 0.2])
    pruner = prune.StagePruner(
        (0.5, 0.75),
        "ew",
        accept=lambda metric, dense: metric > dense / 2,
        callbacks=[lambda r: kept.setdefault(r.stage, dict(model.weights))],
    )
    pruner.run(model)
    assert [r.accepted for r in pruner.records] == [True, False]
    assert [r.pruned for r in pruner.records] == [0.9, 0.1]
    for name, w in model.weights.items():
        np.testing.assert_array_equal(w, kept[0][name])
        np.testing.assert_array_equal(model.masks[name], pruner.selections[name].mask)


def test_a_metric_of_nan_is_refused():
    pruner = prune.StagePruner((0.5,), "ew", accept=10.0)
    pruner.run(Numbers([1.0, 1.0, float("nan")]))
    assert not pruner.records[0].accepted


@pytest.mark.parametrize("pattern", ["tvw", "ew", "tew"])
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("at", [(0, 1), (1, 1), (2, 2)])
def test_resumed_is_as_if_never_interrupted(tmp_path, pattern, regrow, at):
    metrics = [1.0, 0.5, 0.9, 0.5, 0.9, 0.5, 0.1, 0.9]
    options = {"pattern": pattern, "regrow": regrow, "accept": 0.2, "retries": 1, "tile_rows": 32}
    schedule = (0.5, 0.7, 0.9)
    whole = Numbers(metrics)
    expected = prune.StagePruner(schedule, **options)
    expected.run(whole)
    assert len(expected.records) == 3

    path = tmp_path / "state.safetensors"
    first = Numbers(metrics)
    first.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        prune.StagePruner(schedule, state_file=path, **options).run(first)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    second = Numbers(metrics[1 + 2 * at[0] :])  # those of the stage that was interrupted on
    second.weights = {n: np.zeros_like(w) for n, w in second.weights.items()}
    pruner = prune.StagePruner(schedule, state_file=path, **options)
    assert len(pruner.records) == at[0]
    pruner.run(second)
    assert second.trained == [t for t in whole.trained if t[0] >= at[0]]
    assert_same(pruner.selections, expected.selections)
    for name, w in whole.weights.items():
        np.testing.assert_array_equal(second.weights[name], w)
    assert [r.metric for r in pruner.records] == [r.metric for r in expected.records]

    third = Numbers()
    again = prune.StagePruner(schedule, state_file=path, **options)
    assert again.finished
    again.run(third)
    assert third.trained == []
    np.testing.assert_array_equal(third.weights["up"], whole.weights["up"])


def test_another_plan_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    prune.StagePruner((0.5,), "ew", state_file=path).run(Numbers())
    before = path.read_bytes()
    for schedule, options, message in (
        ((0.6,), {"pattern": "ew"}, "its schedule is"),
        ((0.5,), {"pattern": prune.ElementWise()}, "its pattern is"),
        ((0.5,), {"pattern": "ew", "regrow": True}, "its regrow is"),
        ((0.5,), {"pattern": "ew", "floor": 0}, "its ranking is"),
    ):
        with pytest.raises(FormatError, match=message):
            prune.StagePruner(schedule, state_file=path, **options)
    prune.StagePruner((0.5,), "ew", state_file=path, progress=iter)
    assert path.read_bytes() == before


def test_a_failed_stage_loses_nothing(tmp_path):
    path = tmp_path / "state.safetensors"
    model = Numbers()
    train = model.train
    model.train = lambda r: (train(r), model.weights["up"].fill(np.nan))
    pruner = prune.StagePruner((0.5, 0.75), "ew", state_file=path)
    with pytest.raises(FormatError, match="NaN"):
        pruner.run(model)
    resumed = prune.StagePruner((0.5, 0.75), "ew", state_file=path)
    assert len(resumed.records) == 1


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "bool", "int64"])
def test_snapshot_keeps_dtypes(tmp_path, name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    model = Numbers()
    extra = np.arange(6).reshape(2, 3).astype(dtype)
    model.state = lambda: model.weights | {"extra": extra, "count": np.array(7)}
    path = tmp_path / "state.safetensors"
    prune.StagePruner((0.5,), "ew", state_file=path).run(model)
    back = load_state(path).snapshot
    assert back["extra"].dtype == dtype
    np.testing.assert_array_equal(back["extra"], extra)
    assert back["count"] == 7
    assert back["count"].shape == ()


def test_snapshot_of_no_dtype_is_refused(tmp_path):
    model = Numbers()
    model.state = lambda: {"names": np.array(["a"])}
    path = tmp_path / "state.safetensors"
    with pytest.raises(FormatError, match="snapshot 'names'"):
        prune.StagePruner((0.5,), "ew", state_file=path).run(model)
    assert not path.exists()


def test_state_file_is_read_without_trust(tmp_path):
    """Any byte changed, any end cut off: the same state, or an error that names the file."""
    path = tmp_path / "state.safetensors"
    prune.StagePruner((0.5,), "tvw", state_file=path, tile_rows=16).run(Numbers())
    whole, refusals = path.read_bytes(), []
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            # The header is where damage can do most.
            damaged[rng.integers(len(whole) if rng.random() < 0.5 else 2000)] ^= 1 << rng.integers(
                8
            )
        path.write_bytes(damaged)
        try:
            state = load_state(path)
        except FormatError as e:
            refusals.append(str(e))
        else:
            for selection in state.selections.values():
                assert selection.mask.dtype == np.bool_
    assert len(refusals) > 100
    assert all(message.startswith(str(path)) for message in refusals)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(pruning=2), "no state of a pruning"),
        (lambda h: h["selections"]["up"].update(shape=[96, 65]), "mask 'up' has"),
        (lambda h: h["selections"]["up"].update(shape=[48, 128]), "layout of 'up'"),
        (lambda h: h["snapshot"]["up"].update(shape=[3, 3]), "snapshot 'up' has"),
        (lambda h: h["selections"]["up"]["layout"].update(tile_rows=7), "16 to 1024"),
    ],
)
def test_hostile_header(tmp_path, change, message):
    path = tmp_path / "state.safetensors"
    prune.StagePruner((0.5,), "tvw", state_file=path, tile_rows=16).run(Numbers())
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["tvwarray"])
    change(header)
    outer["__metadata__"]["tvwarray"] = json.dumps(header)
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(FormatError, match=message):
        load_state(path)


def test_a_matrix_file_is_no_state(tmp_path):
    path = tmp_path / "A.safetensors"
    tvwarray.save(path, tvwarray.sparsify(np.eye(64), 0.5))
    with pytest.raises(FormatError, match="no state of a pruning"):
        prune.StagePruner((0.5,), "ew", state_file=path)


def test_state_without_stages(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, prune.StagePruner((0.5,))._state)
    state = load_state(path)
    assert state.records == ()
    assert state.dense is None
    assert dict(state.selections) == {}


def test_bad_input():
    with pytest.raises(FormatError, match="retries is -1"):
        prune.StagePruner((0.5,), retries=-1)
    too_low = prune.StagePruner((0.25, 0.5), "tvw")
    with pytest.raises(FormatError, match=r"0\.5"):
        too_low.run(Numbers())
    model = Numbers()
    pruner = prune.StagePruner((0.5, 0.75), "ew")
    train = model.train
    model.train = lambda r: (train(r), model.weights.pop("up"))
    with pytest.raises(FormatError, match="the stage before had"):
        pruner.run(model)
