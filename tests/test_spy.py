"""Pictures: what is drawn against counts from the oracle, bounded however large the matrix."""

from __future__ import annotations

import time

import matplotlib as mpl
import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import storages

import tvwarray
from tvwarray import TVWMatrix
from tvwarray.__main__ import main
from tvwarray._spy import raster

mpl.use("agg")


@pytest.fixture(autouse=True)
def no_figures_left():
    """Close what a test leaves open."""
    from matplotlib import pyplot

    yield
    pyplot.close("all")


@given(storages(dtypes=["float32", "int8"], repeats=False), st.sampled_from([1, 5, 32, 200]))
def test_cells_count_what_is_kept_and_stored(s, cells):
    share, fill, beside = raster(s, cells)
    rows, cols = s.shape
    kept, stored = np.zeros((2, *share.shape))
    area = np.zeros(share.shape)
    keeps = np.zeros(s.shape, bool)
    for t in range(len(s.row_indptr) - 1):
        for row in s.row_indices[s.row_indptr[t] : s.row_indptr[t + 1]]:
            for col in s.col_indices[s.col_indptr[t] : s.col_indptr[t + 1]]:
                if col >= 0:
                    keeps[row, col] = True
    a = oracle.dense(s)
    for row in range(rows):
        for col in range(cols):
            cell = row * share.shape[0] // rows, col * share.shape[1] // cols
            area[cell] += 1
            kept[cell] += keeps[row, col]
            stored[cell] += a[row, col] != 0
    np.testing.assert_allclose(share, kept / np.maximum(area, 1), atol=1e-15)
    np.testing.assert_allclose(fill, stored / np.maximum(kept, 1), atol=1e-15)
    assert not beside.any()


def test_the_remainder_is_marked():
    A = TVWMatrix.from_dense(np.zeros((64, 64))).with_remainder(
        sp.csr_array(([1.0], ([40], [20])), shape=(64, 64))
    )
    beside = raster(A.storage, 64)[2]
    assert np.argwhere(beside).tolist() == [[40, 20]]
    ax = A.spy()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["remainder"]


def test_axes_have_the_matrix_size_and_names():
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((96, 200)), 0.75)
    ax = A.spy()
    assert ax.get_xlim() == (0, 200)
    assert ax.get_ylim() == (96, 0)
    assert ax.get_title() == "96 x 200 float64, 1 tile"
    assert A.T.spy(ax, colorbar=False) is ax
    assert ax.get_xlim() == (0, 96)
    TVWMatrix((0, 5)).spy()
    TVWMatrix((5, 0)).spy()


def test_a_huge_matrix_is_drawn_quickly():
    n = 100_000
    A = TVWMatrix(sp.eye_array(n, format="csr", dtype=np.float32))
    start = time.perf_counter()
    share, fill, _ = raster(A.storage, 512)
    assert time.perf_counter() - start < 20
    assert share.shape == (512, 512)
    assert (np.diag(fill) > 0).all()


def test_pictures_from_the_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((64, 64)), 0.75)
    tvwarray.save(tmp_path / "A.npz", A)
    assert main(["spy", str(tmp_path / "A.npz"), "-o", str(tmp_path / "a.svg")]) == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
    tvwarray.save(tmp_path / "two.npz", {"enc/a": A, "b": A})
    assert main(["spy", str(tmp_path / "two.npz"), "-o", str(tmp_path / "all")]) == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["000-enc_a.png", "001-b.png"]
    assert "2 pictures" in capsys.readouterr().out
    assert main(["spy", str(tmp_path / "two.npz"), "-o", str(tmp_path / "x.png")]) == 2
    assert "name a folder with -o" in capsys.readouterr().err
    assert main(["spy", str(tmp_path / "A.npz"), "-o", str(tmp_path / "x.doc")]) == 2


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"install tvwarray\[plot\]"):
        TVWMatrix((4, 4)).spy()
