"""Matrices that people have: pyamg's bundled ones and galleries, graphs, pruned layers of a model.

Axes: matrix, tile rows, layout. Conversion is compared bit for bit, products with float64, slots
with the goals that packing has.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import suite

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._cli.weights import cached_model, installed_model
from tvwarray._convert.sparse import canonical
from tvwarray._layouts.slots import lay_out
from tvwarray._layouts.tiles import choose_tiles, natural_tiles

pytestmark = pytest.mark.filterwarnings("ignore::tvwarray.EfficiencyWarning")

DATA = Path(__file__).parent / "data"

MATRICES = {
    **{name: partial(suite.example, name) for name in suite.EXAMPLES},
    "5-point": partial(suite.poisson, 60, 70),
    "7-point": partial(suite.poisson, 15, 16, 17),
    "9-point": partial(suite.finite_elements, 60, 70),
    "27-point": partial(suite.finite_elements, 12, 13, 14),
    "27-point, renumbered": lambda: suite.shuffled(suite.finite_elements(12, 13, 14)),
    "elasticity": partial(suite.elasticity, 30),
    "RMAT graph": partial(suite.rmat, 11),
    "Barabasi-Albert graph": partial(suite.preferential, 2000),
    "communities": partial(suite.communities, 2048, 16),
    "scattered": partial(suite.scattered, 3000, 8),
    "hidden blocks": partial(suite.noisy_blocks, 1024, 64, shuffle=True),
    "band": partial(suite.banded, 1000, 20),
}
each = pytest.mark.parametrize("name", MATRICES)


def same(a, b):
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.indptr, b.indptr)
    np.testing.assert_array_equal(a.indices, b.indices)
    assert a.data.tobytes() == b.data.tobytes()


@each
@pytest.mark.parametrize("layout", ["lossless", "hybrid"])
def test_nothing_is_lost(name, layout):
    a = MATRICES[name]()
    for tile_rows in ("auto", 16, 128):
        A = TVWMatrix.from_scipy(a, tile_rows=tile_rows, layout=layout)
        A.storage.check()
        same(A.tocsr(), a)


@each
@pytest.mark.parametrize("n", [1, 5, 40])
def test_products_are_those_of_csr(name, n):
    a = MATRICES[name]()
    X = np.random.default_rng(0).standard_normal((a.shape[1], n))
    size = abs(a) @ np.abs(X)
    terms = np.diff(a.indptr).max() + 2
    error = np.abs(TVWMatrix(a) @ X - a @ X)
    assert (error <= 2 * terms * np.finfo(np.float64).eps * size).all()


@each
@pytest.mark.parametrize("tile_rows", [16, 64, 128])
def test_slots_are_within_three_percent_of_the_bound(name, tile_rows):
    """Padding to 16 counts in both; `bar` at 16 rows is 25 % dense and more in its tiles."""
    a = MATRICES[name]()
    pattern, _ = canonical(a, a.shape, a.dtype)
    tiles = choose_tiles(pattern, tile_rows, (2, 4))
    slots = lay_out(pattern, tiles, (2, 4), spread=True)
    cells = (tiles.heights * tiles.bounds).sum()
    most = 1.03 if a.nnz <= 0.25 * cells else 1.25
    assert slots.indptr[-1] <= most * tiles.bounds.sum() + 16


@pytest.mark.parametrize(
    ("make", "sides", "most"),
    [
        (suite.poisson, (100, 100), 0.56),
        (suite.finite_elements, (100, 100), 0.62),
        (suite.poisson, (10, 16, 50), 0.6),
        (suite.finite_elements, (10, 16, 50), 0.6),
        (suite.elasticity, (70,), 0.66),
    ],
)
def test_grouped_rows_of_meshes_share_columns(make, sides, most):
    """The goal is 0.5 to 0.66 of natural order, for meshes wider than a few blobs."""
    a = make(*sides)
    pattern, _ = canonical(a, a.shape, a.dtype)
    grouped = choose_tiles(pattern, 64, (2, 4))
    assert grouped.order_name == "grouped"
    assert grouped.bounds.sum() <= most * natural_tiles(pattern, 64, (2, 4)).bounds.sum()


def test_renumbered_meshes_cost_what_they_did():
    costs = []
    for name in ("27-point", "27-point, renumbered"):
        a = MATRICES[name]()
        pattern, _ = canonical(a, a.shape, a.dtype)
        costs.append(choose_tiles(pattern, 64, (2, 4)).bounds.sum())
    assert costs[1] <= 1.02 * costs[0]


@each
def test_an_analysis_has_words(name):
    found = tvwarray.analyze(MATRICES[name](), n=64)
    assert found.recommendation.startswith(("Take TVWMatrix", "Keep "))
    assert len(str(found).splitlines()) > 8


PRUNED_COST = {0.5: 0.68, 0.75: 0.55, 0.9: 0.5, 0.95: 0.42}
"""The most that tiles of 64 rows may cost next to the dense matrix, by sparsity."""


def check_pruned(w, sparsity):
    a = suite.magnitude_pruned(w.astype(np.float32), sparsity)
    A = TVWMatrix(a, tile_rows=64)
    A.storage.check()
    same(A.tocsr(), a)
    assert A.storage.data.size <= PRUNED_COST[sparsity] * a.shape[0] * a.shape[1]
    X = np.random.default_rng(0).standard_normal((a.shape[1], 24), dtype=np.float32)
    size = abs(a) @ np.abs(X)
    assert (np.abs(A @ X - a @ X) <= 2 * a.shape[1] * np.finfo(np.float32).eps * size).all()


@pytest.mark.parametrize("sparsity", PRUNED_COST)
def test_layers_of_a_model(sparsity):
    """A matrix of the MiniLM encoder, magnitude-pruned."""
    with np.load(DATA / "minilm.npz") as layers:
        for name in layers.files:
            check_pruned(layers[name], sparsity)


@pytest.mark.parametrize("sparsity", PRUNED_COST)
def test_whole_layers_of_a_model(sparsity):
    """Matrices of the encoder of each shape, where the model is at hand: nothing is downloaded."""
    weights = installed_model() or cached_model()
    if weights is None:
        pytest.skip("the model of `tvwarray demo` is not in the cache; one matrix of it is tested")
    layers = suite.layers(weights)
    for name in ("L0.attention.self.query", "L3.intermediate.dense", "L5.output.dense"):
        check_pruned(layers[name], sparsity)
