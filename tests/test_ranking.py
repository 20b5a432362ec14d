"""Ranking over many layers: budgets, floors, scopes, normalisation, apriori lists, progress."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

import tvwarray
from tvwarray import FormatError, _convert, prune

PATTERNS = {
    "EW": prune.ElementWise(),
    "VW": prune.VectorWise(None, 16),
    "BW": prune.BlockWise(16),
    "TW": prune.TileWise(32),
    "TW plain": prune.TileWise(32, group_rows=False),
    "TEW": prune.TileElementWise(32),
    "TVW": prune.TileVectorWise(32),
    "TVW grouped": prune.TileVectorWise(32, permute=False),
    "TVW plain": prune.TileVectorWise(32, permute=False, group_rows=False),
    "TVW-16": prune.TileVectorWise(32, None, 16),
}
each = pytest.mark.parametrize("name", PATTERNS)


def layers(seed=0, spread=1.0):
    """Return layers of different shapes whose scores differ by factors."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (256, 256), "b": (512, 130), "c": (100, 300), "d": (33, 65)}
    return {
        name: np.exp(rng.normal(0, spread)) * rng.exponential(1, shape)
        for name, shape in shapes.items()
    }


def realised(masks):
    return 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.size for m in masks.values())


@each
@settings(max_examples=max(10, settings.default.max_examples // 4))
@given(st.sampled_from([0.5, 0.75, 0.9, 0.98]), seeds)
def test_the_budget_is_met_and_nobody_goes_empty(name, sparsity, seed):
    scores = layers(seed, spread=3.0)
    masks = prune.global_masks(scores, sparsity, PATTERNS[name])
    assert list(masks) == list(scores)
    assert abs(realised(masks) - sparsity) <= 0.005
    for layer, mask in masks.items():
        assert mask.shape == scores[layer].shape
        # A quarter of its uniform share, less the half region by which it may be rounded.
        assert mask.sum() >= 0.25 * (1 - sparsity) * mask.size * 0.99
        assert mask.any()


@each
def test_floors_are_what_keeps_layers_alive(name):
    """Without a floor a layer of no worth is emptied, if the pattern ranks layers at all."""
    strong = 1 + np.random.default_rng(0).random((256, 256))
    scores = {"strong": strong, "weak": np.zeros((256, 256))}
    masks = prune.global_masks(scores, 0.75, PATTERNS[name], floor=0.0)
    uniform = name == "VW"
    assert masks["weak"].any() == uniform
    half = prune.global_masks(scores, 0.75, PATTERNS[name], floor=0.5)
    assert half["weak"].mean() == pytest.approx(0.25 if uniform else 0.125, abs=0.02)
    equal = prune.global_masks(scores, 0.75, PATTERNS[name], floor=1.0)
    assert equal["weak"].mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("normalize", ["mean", "sqrt"])
@pytest.mark.parametrize("name", ["BW", "TW", "TW plain", "TVW grouped", "TVW plain", "TVW-16"])
def test_long_layers_are_not_emptied_beside_short_ones(name, normalize):
    """Where regions are as long as layers are high or wide, worth must not fall with length."""
    rng = np.random.default_rng(0)
    shapes = [(3072, 768), (768, 768), (768, 768), (768, 3072)]
    scores = {
        f"{i}": rng.standard_normal(shape, dtype=np.float32) ** 2 for i, shape in enumerate(shapes)
    }
    masks = prune.global_masks(scores, 0.75, PATTERNS[name], floor=0.0, normalize=normalize)
    assert abs(realised(masks) - 0.75) <= 0.005
    for mask in masks.values():
        assert mask.mean() == pytest.approx(0.25, abs=0.05)


def test_sums_favour_long_regions():
    scores = {"long": np.ones((512, 256)), "short": np.full((256, 512), 1.5)}
    pattern = prune.TileWise(512, rows_too=False, group_rows=False)
    by_mean = prune.global_masks(scores, 0.75, pattern, floor=0.0)
    by_sum = prune.global_masks(scores, 0.75, pattern, floor=0.0, normalize="none")
    assert not by_mean["long"].any()  # each of its entries is worth less
    assert by_sum["long"].any()  # its columns are twice as long as those of the other


def test_root_mean_squares_favour_peaks():
    flat, peaked = np.full((64, 64), 1.0), np.zeros((64, 64))
    peaked[::2] = 1.9
    scores = {"flat": flat, "peaked": peaked}
    for normalize, better in (("mean", "flat"), ("sqrt", "peaked")):
        masks = prune.global_masks(scores, 0.75, prune.BlockWise(16), normalize=normalize)
        assert max(masks, key=lambda n: masks[n].sum()) == better


@each
def test_scopes(name):
    pattern, scores = PATTERNS[name], layers(spread=2.0)
    each_alone = prune.global_masks(scores, 0.75, pattern, scope="layer")
    for layer, mask in each_alone.items():
        np.testing.assert_array_equal(mask, pattern.select(scores[layer], 0.75).mask)
    groups = prune.global_masks(scores, 0.75, pattern, scope=[["a", "c"], ("d", "b")])
    for group in (("a", "c"), ("b", "d")):
        together = prune.global_masks({n: scores[n] for n in group}, 0.75, pattern)
        for layer in group:
            assert abs(realised({n: groups[n] for n in group}) - 0.75) <= 0.006
            if group == ("a", "c"):
                np.testing.assert_array_equal(groups[layer], together[layer])
    as_one = prune.global_masks(scores, 0.75, pattern, scope=[scores])
    everything = prune.global_masks(scores, 0.75, pattern)
    for layer in scores:
        np.testing.assert_array_equal(as_one[layer], everything[layer])


def test_element_wise_over_all_layers_is_one_threshold():
    scores = layers(1, spread=0.2)
    masks = prune.global_masks(scores, 0.8, "ew")
    kept = np.concatenate([scores[n][masks[n]] for n in scores])
    dropped = np.concatenate([scores[n][~masks[n]] for n in scores])
    assert kept.min() >= dropped.max()
    assert kept.size == round(0.2 * (kept.size + dropped.size))


def test_equals_take_turns():
    """Where all scores are equal, no layer and no tile is favoured."""
    scores = {"a": np.ones((256, 256)), "b": np.ones((512, 128))}
    for name in ("EW", "BW", "TW plain", "TVW plain"):
        for mask in prune.global_masks(scores, 0.75, PATTERNS[name]).values():
            assert mask.mean() == pytest.approx(0.25, abs=0.02)


@each
def test_selections_become_matrices_in_their_layout(name):
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in layers().items()}
    scores = {n: prune.magnitude(w) for n, w in weights.items()}
    made = prune.global_selections(scores, 0.8, PATTERNS[name])
    for n, (mask, layout) in made.items():
        storage = _convert.from_selection(weights[n], mask, layout)
        storage.check()
        np.testing.assert_array_equal(_convert.to_dense(storage), np.where(mask, weights[n], 0))
        if layout is not None:
            np.testing.assert_array_equal(storage.col_indices, layout.col_indices)
            np.testing.assert_array_equal(storage.row_indices, layout.row_indices)
        assert made[n].sparsity == 1 - mask.mean()


def test_a_selection_of_another_matrix_is_refused():
    W = np.random.default_rng(0).standard_normal((64, 48))
    selection = prune.TileVectorWise(16).select(np.abs(W), 0.75)
    A = tvwarray.TVWMatrix.from_selection(W, selection)
    np.testing.assert_array_equal(A.toarray(), np.where(selection.mask, W, 0))
    with pytest.raises(FormatError, match=r"the layout is of \(64, 48\), the array of \(48, 64\)"):
        tvwarray.TVWMatrix.from_selection(W.T, selection)
    with pytest.raises(FormatError, match=r"mask is bool of shape \(64, 48\)"):
        tvwarray.TVWMatrix.from_selection(W.T, selection._replace(layout=None))
    with pytest.raises(FormatError, match="3 dimensions"):
        tvwarray.TVWMatrix.from_selection(W[None], selection)


def test_apriori_protects_and_empties_regions():
    """A column that element-wise pruning keeps whole goes first, one that it empties goes last."""
    rng = np.random.default_rng(0)
    S = 1 + rng.random((128, 64))
    S[:, 5] = 2.1  # just above all others: element-wise pruning keeps it whole
    S[:, 9] = 0.4  # below all others ...
    S[0, 9] = 1e4  # ... but for one entry, which makes the mean of the column the best of all
    scores = {"layer": S, "other": 1 + rng.random((64, 64))}
    pattern = prune.TileWise(128, rows_too=False, group_rows=False)
    plain = prune.global_masks(scores, 0.9, pattern)["layer"]
    assert plain[:, 9].all()
    lists = prune.apriori(scores, 0.5, empty=0.01, dense=1.0)
    guided = prune.global_masks(scores, 0.9, pattern, apriori=lists)["layer"]
    assert guided[:, 5].all()
    assert not guided[:, 9].any()
    for name, ranked in PATTERNS.items():
        masks = prune.global_masks(scores, 0.75, ranked, apriori=lists)
        assert abs(realised(masks) - 0.75) <= (0.02 if name == "BW" else 0.01)
    with pytest.raises(FormatError, match="apriori has none for third"):
        prune.global_masks({"third": S}, 0.9, pattern, apriori=lists)
    with pytest.raises(FormatError, match=r"one of shape \(128, 64\) for layer"):
        prune.global_masks({"layer": S.T}, 0.9, pattern, apriori=lists)
    with pytest.raises(FormatError, match="0 <= empty < dense <= 1"):
        prune.apriori(scores, 0.5, empty=0.5, dense=0.5)


def test_progress_sees_every_step():
    seen = []

    def progress(items):
        seen.append(len(items))
        return items

    made = prune.global_masks(layers(), 0.75, "tvw", tile_rows=32, progress=progress)
    assert len(seen) >= 5  # the rounds, and the tiles of four layers
    again = prune.global_masks(layers(), 0.75, "tvw", tile_rows=32)
    for name, mask in made.items():
        np.testing.assert_array_equal(mask, again[name])


def test_any_libraries_arrays_are_ranked():
    xp = pytest.importorskip("array_api_strict")
    scores = {n: s.astype(np.float32) for n, s in layers().items()}
    for a, b in zip(
        prune.global_masks({n: xp.asarray(s) for n, s in scores.items()}, 0.75).values(),
        prune.global_masks(scores, 0.75).values(),
        strict=True,
    ):
        assert isinstance(a, np.ndarray)
        np.testing.assert_array_equal(a, b)


def test_score_kept():
    scores = {"a": np.array([[1.0, 3.0]]), "b": np.array([[4.0, 0.0]])}
    masks = {"a": np.array([[False, True]]), "b": np.array([[False, True]])}
    assert prune.score_kept(scores, masks) == 3 / 8
    selections = {n: prune.Selection(m, None) for n, m in masks.items()}
    assert prune.score_kept(scores, selections) == 3 / 8
    assert prune.score_kept({"a": np.zeros((2, 2))}, {"a": np.zeros((2, 2), bool)}) == 1


def test_comparison_with_other_patterns():
    scores = layers(spread=1.0)
    chosen = prune.global_selections(scores, 0.75, tile_rows=32)
    found = prune.compare(scores, chosen, tile_rows=32)
    ew = prune.global_masks(scores, found.sparsity, "ew", floor=0)
    plain = prune.TileVectorWise(32, permute=False, group_rows=False)
    assert found.sparsity == pytest.approx(realised({n: s.mask for n, s in chosen.items()}))
    assert found.kept == prune.score_kept(scores, chosen)
    assert found.element_wise == prune.score_kept(scores, ew)
    assert found.plain == prune.score_kept(
        scores, prune.global_masks(scores, found.sparsity, plain)
    )
    assert found.plain < found.kept < found.element_wise
    assert f"{found.kept / found.element_wise:.3f} of element-wise" in str(found)
    few = prune.compare(scores, prune.global_masks(scores, 0.3, "ew"))
    assert few.plain is None
    assert "TVW" not in str(few)


def test_no_layers_and_empty_layers():
    assert prune.global_masks({}, 0.75) == {}
    for name in PATTERNS:
        masks = prune.global_masks(
            {"none": np.ones((0, 8)), "some": np.ones((64, 64))}, 0.75, PATTERNS[name]
        )
        assert masks["none"].shape == (0, 8)
        assert masks["some"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "all"}, 'scope is \'all\'; it is "global", "layer" or groups'),
        ({"scope": [["a"], ["x"]]}, "scope names 'x', of which there are no scores"),
        ({"scope": [["a", "b"], ["b"]]}, "scope names 'b' twice"),
        ({"scope": [["a"]]}, "scope does not name 'b'"),
        ({"floor": 1.5}, "floor is 1.5"),
        ({"normalize": "l2"}, "normalize is 'l2'"),
        ({"pattern": "nm"}, "pattern is 'nm'"),
        ({"sparsity": 0.3}, "reaches 0.5 to 1"),
        ({"scores": {"a": np.ones((2, 2)), "b": -np.ones((2, 2))}}, "b: the score at row 0"),
        ({"scores": {"a": np.ones(3)}}, "a: scores have 1 dim"),
    ],
)
def test_bad_input(options, message):
    scores = {"a": np.ones((8, 8)), "b": np.ones((8, 8))}
    with pytest.raises(FormatError, match=message):
        prune.global_masks(**{"scores": scores, "sparsity": 0.75, **options})


def test_a_pattern_of_ones_own_ranks_each_layer():
    class Half:
        def select(self, scores, sparsity):
            return prune.Selection(np.arange(scores.size).reshape(scores.shape) % 2 == 0, None)

    scores = layers()
    masks = prune.global_masks(scores, 0.5, Half(), scope="layer")
    assert abs(realised(masks) - 0.5) < 0.001
    with pytest.raises(FormatError, match="Half has no select_all"):
        prune.global_masks(scores, 0.5, Half())
