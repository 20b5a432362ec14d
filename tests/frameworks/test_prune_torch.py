"""Pruning of PyTorch tensors: what NumPy does not take by itself, and the example of stages."""

from __future__ import annotations

import numpy as np
import pytest

from tvwarray import prune

torch = pytest.importorskip("torch", reason="needs PyTorch")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_have_scores(dtype):
    weight = torch.nn.Parameter(torch.randn(64, 64, dtype=getattr(torch, dtype)))
    scores = prune.magnitude(weight)
    np.testing.assert_array_equal(scores, weight.detach().abs().double().numpy())
    masks = prune.global_masks({"layer": weight.detach().abs()}, 0.5, tile_rows=16)
    assert np.count_nonzero(masks["layer"]) == 64 * 32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with PyTorch")
def test_scores_of_a_gpu():
    weight = torch.randn(64, 64, device="cuda")
    np.testing.assert_array_equal(prune.magnitude(weight), weight.abs().cpu().numpy())
