"""Pictures of pruning: bars are the shares that NumPy counts."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from tvwarray import prune

mpl.use("agg")


@pytest.fixture(autouse=True)
def no_figures_left():
    from matplotlib import pyplot

    yield
    pyplot.close("all")


def layers():
    rng = np.random.default_rng(0)
    return {name: np.abs(rng.standard_normal((64, n))) for name, n in (("a", 64), ("b", 128))}


def test_sparsity_by_layer():
    masks = prune.global_masks(layers(), 0.75, "ew")
    ax = prune.plot_sparsity(masks)
    widths = [p.get_width() for p in ax.patches]
    np.testing.assert_allclose(widths, [100 * (1 - m.mean()) for m in masks.values()])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "pruned, % (all layers: 75.0)"
    assert prune.plot_sparsity({}, ax) is ax


def test_score_kept_by_layer_and_pattern():
    scores = layers()
    masks = {p: prune.global_masks(scores, 0.75, p) for p in ("ew", "tvw")}
    masks["chosen"] = prune.global_selections(scores, 0.75, "tvw")
    ax = prune.plot_score_kept(scores, masks)
    kept = [100 * (scores[n] * masks["ew"][n]).sum() / scores[n].sum() for n in scores]
    np.testing.assert_allclose([p.get_width() for p in ax.patches[:2]], kept)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels] == ["ew", "tvw", "chosen"]
    assert labels[1].split(":")[1] == labels[2].split(":")[1]
    assert len(ax.patches) == 6
