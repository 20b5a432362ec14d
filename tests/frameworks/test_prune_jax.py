"""Pruning of JAX arrays, and the example of stages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tvwarray
from tvwarray import prune

jax = pytest.importorskip("jax", reason="needs JAX")


def test_arrays_have_scores():
    weight = jax.random.normal(jax.random.key(0), (64, 64))
    np.testing.assert_array_equal(prune.magnitude(weight), np.abs(np.asarray(weight)))
    masks = prune.global_masks({"layer": abs(weight)}, 0.5, tile_rows=16)
    assert np.count_nonzero(masks["layer"]) == 64 * 32


def test_narrow_weights_of_a_model():
    weights = {"up": jax.random.normal(jax.random.key(0), (64, 64), dtype="bfloat16")}
    model = tvwarray.sparsify_model(weights, 0.5, tile_rows=16)
    kept = np.where(model.masks["up"], np.asarray(weights["up"], np.float32), 0)
    np.testing.assert_array_equal(model.matrices["up"].toarray().astype(np.float32), kept)


def test_example_of_stages(tmp_path):
    path = Path(__file__).parents[2] / "examples" / "frameworks" / "prune_jax.py"
    spec = importlib.util.spec_from_file_location("prune_jax", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    state = tmp_path / "state.safetensors"
    model, pruner = example.main(state)
    assert [r.accepted for r in pruner.records] == [True] * 3
    assert pruner.records[-1].metric > pruner.dense - 0.05
    assert abs(pruner.records[-1].sparsity - 0.75) <= 0.005
    for name, selection in pruner.selections.items():
        np.testing.assert_array_equal(np.asarray(model.masks[name]) > 0, selection.mask)
    # Once more: everything is in the file, nothing is trained again.
    again, resumed = example.main(state)
    assert resumed.records == pruner.records
    for name, x in model.params.items():
        np.testing.assert_array_equal(np.asarray(again.params[name]), np.asarray(x))
