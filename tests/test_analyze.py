"""`analyze`: figures against a conversion's, structures that are recognised, words and warnings.

Times are predictions: here they are only held to be sane; `asv_bench/predictions.py` compares them
with measured ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, pattern, seeds, two_four_mask

import tvwarray
from tvwarray import FormatError, TVWMatrix, _advice, _analyze, analyze
from tvwarray._costs.cpu import REFERENCE
from tvwarray._costs.work import bsr_blocks, row_windows, work_of
from tvwarray._kernels.devices import DEVICES
from tvwarray._layouts.pattern import pattern_of_mask


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, vector=st.sampled_from([(2, 4), None]), n=st.sampled_from([1, 9, 512]))
def test_figures_are_those_of_a_conversion(kind, seed, vector, n):
    rng = np.random.default_rng(seed)
    keep = pattern(rng, kind, int(rng.integers(0, 90)), int(rng.integers(0, 90)), 32)
    a = np.where(keep, rng.standard_normal(keep.shape), 0).astype(np.float32)
    found = analyze(a, n, device="cpu", vector=vector)
    assert found.nnz == np.count_nonzero(a)
    assert found.longest_row == np.count_nonzero(a, axis=1).max(initial=0)
    assert found.dense_nbytes == a.nbytes
    for t in found.tiles:
        s = TVWMatrix.from_dense(a, tile_rows=t.tile_rows, vector=vector).storage
        assert t.slots == s.col_indices.size
        assert t.bound <= t.slots
        assert t.longest == s.slots_of.max(initial=0)
        assert t.tiles == s.num_tiles
        assert t.stored == s.data.size
        assert t.nbytes == s.nbytes
        assert t.work.slots == np.count_nonzero(s.col_indices >= 0)
        assert t.fill <= (0.5 if vector else 1)
        assert t.cost == pytest.approx(s.data.size / max(1, a.size))
    assert set(found.times[0].seconds) >= {"tvw", "csr", "dense"}
    assert all(0 < s < 10 for s in found.times[0].seconds.values())
    assert found.recommendation
    assert str(found)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dense", "tvw", "tvw16"])
def test_every_form_gives_the_same(form):
    rng = np.random.default_rng(0)
    a = np.where(rng.random((90, 70)) < 0.2, rng.standard_normal((90, 70)), 0)
    given_matrix = {
        "dense": lambda: a,
        "tvw": lambda: TVWMatrix(a),
        "tvw16": lambda: TVWMatrix(a.astype(np.float16)),
    }.get(form, lambda: sp.coo_array(a).asformat(form))()
    found = analyze(given_matrix, device="H200")
    expected = analyze(sp.csr_array(a), device="H200")
    assert found.nnz == expected.nnz
    assert [t.slots for t in found.tiles] == [t.slots for t in expected.tiles]
    assert found.dtype == ("float16" if form == "tvw16" else "float64")


def test_cupyx_matrices_are_fetched():
    """A stand-in with what cupyx offers: `get` to the host."""
    host = sp.random_array((40, 50), density=0.2, rng=np.random.default_rng(0), format="csr")

    class OnDevice:
        def get(self):
            return host

    OnDevice.__module__ = "cupyx.scipy.sparse._csr"
    assert analyze(OnDevice(), device="cpu").nnz == host.nnz


def test_structures():
    rng = np.random.default_rng(0)
    two_four = two_four_mask(rng, 256, 256)
    options = {"tile_rows": 64, "permute": False, "group_rows": False}
    pruned = tvwarray.sparsify(rng.standard_normal((256, 256)), 0.75, **options)
    loose = np.zeros((256, 256))
    loose[:, ::8] = 1
    made = {
        "2:4": two_four,
        "TVW": pruned.toarray(),
        "packed": rng.random((256, 256)) < 0.4,
        "empty": np.zeros((20, 30)),
        "fits as it stands": np.eye(256),
    }
    for structure, a in made.items():
        by_height = {t.tile_rows: t.structure for t in analyze(a, device="cpu").tiles}
        assert by_height[64] == structure


def test_large_matrices_are_sampled(monkeypatch):
    monkeypatch.setattr(_analyze, "_SAMPLE_ENTRIES", 20_000)
    rng = np.random.default_rng(0)
    a = sp.random_array((8000, 6000), density=2e-3, rng=rng, format="csr", dtype=np.float32)
    whole = analyze(a.tolil()[:300], device="cpu")
    assert whole.tiles[0].slots == TVWMatrix(a[:300], tile_rows=16).storage.col_indices.size
    for t in analyze(a, device="cpu").tiles[:3]:
        s = TVWMatrix.from_scipy(a, tile_rows=t.tile_rows).storage
        assert t.tiles == s.num_tiles
        assert t.slots == pytest.approx(s.col_indices.size, rel=0.02)
        assert t.nbytes == pytest.approx(s.nbytes, rel=0.02)


@given(seeds, st.sampled_from([2, 3, 4, 8, 16]), st.integers(1, 6), st.integers(1, 6))
def test_blocks(seed, side, rows, cols):
    rng = np.random.default_rng(seed)
    coarse = rng.random((rows, cols)) < 0.5
    keep = np.kron(coarse, np.ones((side, side))) > 0
    best, count = bsr_blocks(pattern_of_mask(keep))
    if best > 1:
        assert count == sp.csr_array(keep).tobsr((best, best)).indices.size
    elif side >= 8:
        assert not coarse.any()


def test_windows():
    """Rows of X that so many rows of A want, and those that the rows before did not."""
    rng = np.random.default_rng(0)
    keep = rng.random((150, 40)) < 0.05
    keep[:, 7] = False
    found = row_windows(pattern_of_mask(keep))
    rows = len(keep)
    twice = np.concatenate([keep, keep])  # the product before
    assert [w.rows for w in found] == [1, 2, 4, 8, 16, 32, 64, 128, rows]
    assert found[0].fetched == keep.sum()
    assert found[-1].footprint == keep.any(axis=0).sum()
    for window in found:
        before = [twice[i + 1 - window.rows : i].any(axis=0) for i in range(rows, 2 * rows)]
        parts = [twice[i : i + window.rows].any(axis=0).sum() for i in range(rows)]
        assert window.fetched == (keep & ~np.array(before)).sum()
        assert window.footprint == pytest.approx(np.mean(parts))


def test_windows_of_nothing():
    for keep in (np.zeros((5, 4), bool), np.zeros((0, 4), bool), np.ones((1, 1), bool)):
        found = row_windows(pattern_of_mask(keep))
        assert found[0].fetched == keep.sum()
        assert found[-1].footprint == keep.any(axis=0).sum()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("vector", [(2, 4), None])
def test_streamed_values(dtype, vector):
    """Strips of two vectors of rows, slots filled up to what a lane of metadata describes."""
    lane = 8 if dtype == "float64" else 4
    strip, block = 128 // lane, (8 * lane if vector else 16)
    W = np.random.default_rng(0).standard_normal((75, 100)).astype(np.float32)
    s = TVWMatrix(W, tile_rows=32, dtype=dtype, vector=vector).storage
    expected = sum(
        -(-int(rows) // strip) * strip * -(-int(slots) // block) * block // (2 if vector else 1)
        for rows, slots in zip(s.rows_of, s.slots_of, strict=True)
    )
    assert work_of(s).streamed == expected


@pytest.mark.parametrize("way", ["tvw", "csr", "bsr", "dense"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128"])
def test_times_grow_with_the_work(way, dtype):
    """Right-hand sides, rows and nonzeros take longer, the more there are of them."""
    rng = np.random.default_rng(0)
    works = []
    for rows in (300, 1200, 4800):
        a = sp.random_array((rows, rows), density=0.02, rng=rng, format="csr")
        a = sp.csr_array(sp.kron(a, np.ones((2, 2)))) if way == "bsr" else a
        made = TVWMatrix(a, dtype=dtype) if dtype == "float16" else a.astype(dtype)
        works.append(analyze(made, device="H200").tiles[-1].work)
    for n in (1, 2, 8, 16, 17, 100, 512):
        seconds = [REFERENCE.seconds(way, w, n) for w in works]
        assert 0 < seconds[0] < seconds[1] < seconds[2] < 10
    few, many = (REFERENCE.seconds(way, works[2], n) for n in (4, 400))
    assert few < many


def test_devices():
    a = sp.eye_array(200, format="csr")
    everywhere = analyze(a)
    assert [t.device for t in everywhere.times] == ["CPU, one core", *DEVICES]
    assert [t.device for t in analyze(a, device="sm_90").times] == ["H200"]
    assert analyze(a, device="H100").times[0].dtype == "float16"
    with pytest.raises(ValueError, match="device is 'abacus'"):
        analyze(a, device="abacus")
    with pytest.raises(ValueError, match="n is 0"):
        analyze(a, 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(3), "1 dimensions"),
        (sp.coo_array(np.ones(3)), "1 dimensions"),
        (np.zeros((2, 2), object), "object"),
    ],
)
def test_what_is_no_matrix(bad, message):
    with pytest.raises(FormatError, match=message):
        analyze(bad)


def test_huge_shapes_cost_nothing():
    one = sp.coo_array(([2.5], ([2**31 - 2], [2**31 - 2])), shape=(2**31 - 1, 2**31 - 1))
    assert analyze(one, device="cpu").best.slots == 16


def test_recommendations():
    figures = {"n": 64, "device": "CPU", "tile_rows": 64, "rho": 3.1, "density": 0.1}
    words = [
        (
            {"tvw": 1e-3, "csr": 2e-3, "dense": 9e-3}, 0.5,
            r"^Take TVWMatrix\(A, tile_rows=64\).* 2 times as fast as CSR",
        ),
        (
            {"tvw": 1e-3, "csr": 2e-3, "dense": 9e-3}, 2.5,
            'takes 2.5 times the bytes of CSR; layout="hybrid"',
        ),
        ({"tvw": 1e-3, "csr": 1.01e-3, "dense": 9e-3}, 0.5, "as fast as any"),
        ({"tvw": 2e-3, "csr": 1e-3, "dense": 9e-3}, 0.5, "^Keep CSR: .* 2 times as fast as TVW"),
        ({"tvw": 2e-3, "csr": 3e-3, "dense": 1e-3}, 0.5, "^Keep the dense matrix.*overheads"),
        ({"tvw": 2e-3, "csr": 3e-3, "bsr": 1e-3, "dense": 9e-3}, 0.5, "^Keep BSR: .*blocks"),
    ]  # fmt: skip
    for seconds, size, expected in words:
        found = _advice.recommend(seconds=seconds, bytes_of_csr=size, **figures)
        assert re.search(expected, found), found
    dense = {"tvw": 2e-3, "csr": 3e-3, "dense": 1e-3}
    full = _advice.recommend(seconds=dense, bytes_of_csr=1, **figures | {"density": 0.8})
    assert "80 % of the elements are nonzero" in full


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(_advice, "_said", False)


def test_a_matrix_that_cannot_pay_is_told_of_once(silent):
    rng = np.random.default_rng(0)
    a = sp.random_array((100_000, 100_000), density=3e-5, rng=rng, format="csr")
    with pytest.warns(tvwarray.EfficiencyWarning, match=r"analyze\(A\) has the figures") as caught:
        TVWMatrix(a)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TVWMatrix.from_scipy(a)


@pytest.mark.parametrize("make", [TVWMatrix, TVWMatrix.from_scipy])
def test_the_warning_points_at_the_caller_and_can_be_silenced(silent, monkeypatch, make):
    monkeypatch.setattr(_advice, "SMALLEST", 1000)
    rng = np.random.default_rng(0)
    a = sp.random_array((150_000, 150_000), density=2e-5, rng=rng, format="csr", dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)
        make(a)
    _advice._said = False
    with pytest.warns(tvwarray.EfficiencyWarning) as caught:
        make(a)
    assert caught[0].filename == __file__


def test_matrices_that_pay_are_not_warned_of(silent):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tvwarray.sparsify(rng.standard_normal((1024, 1024)), 0.75)
        TVWMatrix(np.where(rng.random((1024, 1024)) < 0.3, 1.0, 0))
        TVWMatrix(sp.random_array((3000, 3000), density=1e-3, rng=rng))  # small: not worth a line
        TVWMatrix(np.ones((512, 512), np.float16))  # for a GPU, of which the host knows nothing


def test_without_threadpoolctl_and_engine():
    """The speeds of BLAS are then those of the engine, and those of the engine NumPy's."""
    program = (
        "import sys; sys.modules['threadpoolctl'] = None\n"
        "import scipy.sparse as sp, tvwarray\n"
        "print(tvwarray.analyze(sp.eye_array(64, format='csr'), device='cpu'))"
    )
    env = {"PYTHONPATH": ":".join(sys.path), "TVWARRAY_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env
    )
    assert "CPU, one core" in done.stdout
