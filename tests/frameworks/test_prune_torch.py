"""Pruning of PyTorch tensors: what NumPy does not take by itself, and the example of stages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tvwarray
from tvwarray import prune

torch = pytest.importorskip("torch", reason="needs PyTorch")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_parameters_have_scores(dtype):
    weight = torch.nn.Parameter(torch.randn(64, 64, dtype=getattr(torch, dtype)))
    scores = prune.magnitude(weight)
    np.testing.assert_array_equal(scores, weight.detach().abs().double().numpy())
    masks = prune.global_masks({"layer": weight.detach().abs()}, 0.5, tile_rows=16)
    assert np.count_nonzero(masks["layer"]) == 64 * 32


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float16"])
def test_narrow_weights_of_a_model(tmp_path, name):
    dtype = getattr(torch, name)
    weights = {"up.weight": torch.nn.Parameter(torch.randn(64, 64).to(dtype), requires_grad=False)}
    model = tvwarray.sparsify_model(weights, 0.5, tile_rows=16)
    A = model.matrices["up.weight"]
    assert A.dtype.name == name
    kept = np.where(model.masks["up.weight"], weights["up.weight"].float().numpy(), 0)
    np.testing.assert_array_equal(A.toarray().astype(np.float32), kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with PyTorch")
def test_scores_of_a_gpu():
    weight = torch.randn(64, 64, device="cuda")
    np.testing.assert_array_equal(prune.magnitude(weight), weight.abs().cpu().numpy())


def test_example_of_stages(tmp_path):
    path = Path(__file__).parents[2] / "examples" / "frameworks" / "prune_torch.py"
    spec = importlib.util.spec_from_file_location("prune_torch", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    state = tmp_path / "state.safetensors"
    model, pruner = example.main(state)
    assert [r.accepted for r in pruner.records] == [True] * 3
    assert pruner.records[-1].metric > pruner.dense - 0.05
    assert abs(pruner.records[-1].sparsity - 0.75) <= 0.005
    for name, layer in model.layers.items():
        kept = pruner.selections[name].mask
        assert not layer.weight.detach().numpy()[~kept].any()
    # Once more: everything is in the file, nothing is trained again.
    again, resumed = example.main(state)
    assert resumed.records == pruner.records
    for name, x in model.state().items():
        np.testing.assert_array_equal(again.state()[name], x)
