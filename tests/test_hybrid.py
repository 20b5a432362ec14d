"""Hybrid layouts: nothing is lost, limits are kept, and what stays beside the tiles is what pays.

Axes: class of pattern, dtype, tile rows, vector, limit.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from native_paths import on, paths
from strategies import dense_matrices

import tvwarray
from tvwarray import FormatError, TVWMatrix

dtypes = ["float32", "float64", "float16", "int8", "complex64"]


def same(A, a):
    A.storage.check()
    plain = np.where(a == 0, np.zeros((), a.dtype), a).astype(a.dtype.newbyteorder("="))
    assert A.toarray().tobytes() == np.ascontiguousarray(plain).tobytes()


@paths
@given(data=st.data())
def test_nothing_is_lost(path, data):
    a = data.draw(dense_matrices(dtypes=dtypes, special=True))
    options = {
        "tile_rows": data.draw(st.sampled_from(["auto", 16, 40, 128])),
        "vector": data.draw(st.sampled_from([(2, 4), None])),
        "layout": "hybrid",
    }
    with on(path):
        A = TVWMatrix.from_dense(a, **options)
        same(A, a)
        whole = TVWMatrix.from_dense(a, **options | {"layout": "lossless"})
        beside = 0 if A.remainder is None else A.remainder.nnz
        assert beside <= 0.15 * np.count_nonzero(a)
        assert A.nbytes <= whole.nbytes
        csr_bytes = np.count_nonzero(a) * (a.dtype.itemsize + 4) + 4 * (a.shape[0] + 1) + 8
        limit = data.draw(st.integers(csr_bytes, max(csr_bytes, whole.nbytes)))
        kept = TVWMatrix.from_dense(a, memory_limit=limit, **options)
    same(kept, a)
    assert kept.nbytes <= limit


def scattered(rng, rows=2048, cols=2048):
    """Blocks of likely entries with single ones all over."""
    keep = rng.random((rows, cols)) < 0.002
    for i in range(0, rows, 64):
        keep[i : i + 64, i : i + 64] = rng.random((64, 64)) < 0.4
    return np.where(keep, rng.standard_normal((rows, cols)), 0)


def test_a_hybrid_saves_memory():
    a = scattered(np.random.default_rng(0))
    whole = TVWMatrix.from_dense(a, tile_rows=64)
    hybrid = TVWMatrix.from_dense(a, tile_rows=64, layout="hybrid")
    same(hybrid, a)
    assert 0.1 * whole.nnz < hybrid.remainder.nnz <= 0.15 * whole.nnz
    assert hybrid.nbytes < whole.nbytes / 2
    x = np.random.default_rng(1).standard_normal((2048, 8))
    np.testing.assert_allclose(hybrid @ x, a @ x, atol=1e-12)


def test_limits():
    a = sp.csr_array(scattered(np.random.default_rng(0)).astype(np.float32))
    whole = TVWMatrix.from_scipy(a, tile_rows=64)
    assert (
        TVWMatrix.from_scipy(a, tile_rows=64, layout="hybrid", memory_limit=whole.nbytes).remainder
        is None
    )
    sizes = []
    for limit in (whole.nbytes // 2, whole.nbytes * 2 // 5, 8 * a.nnz + 4 * 2049 + 8):
        A = TVWMatrix.from_scipy(a, tile_rows=64, layout="hybrid", memory_limit=limit)
        assert A.nbytes <= limit
        assert (A.tocsr() != a).nnz == 0
        sizes.append(A.remainder.nnz)
    assert sizes == sorted(sizes)
    with pytest.raises(FormatError, match=r"memory_limit is 1000 bytes; the smallest .* takes \d+"):
        TVWMatrix.from_scipy(a, layout="hybrid", memory_limit=1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "best"}, '"lossless", "exact" or "hybrid"'),
        ({"memory_limit": 10}, 'goes with layout="hybrid"'),
        ({"layout": "exact", "memory_limit": 10}, 'goes with layout="hybrid"'),
        ({"layout": "hybrid", "memory_limit": -1}, "number of bytes"),
        ({"layout": "hybrid", "memory_limit": 1.5}, "number of bytes"),
    ],
)
def test_what_is_no_option(options, message):
    with pytest.raises(FormatError, match=message):
        TVWMatrix.from_dense(np.eye(20), **options)
    with pytest.raises(FormatError, match=message):
        TVWMatrix.from_scipy(sp.eye_array(20), **options)


def test_huge_shapes_stay_in_tiles():
    """A remainder counts the rows of the whole matrix, which is more than it saves here."""
    n = 2**31 - 1
    huge = sp.coo_array((np.ones(40), (np.arange(40), np.arange(40) * 1000)), shape=(n, n))
    A = TVWMatrix.from_scipy(huge, layout="hybrid")
    assert A.remainder is None
    assert A.nbytes < 10_000


def test_pruned_matrices_have_nothing_beside():
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 256)), 0.75)
    B = TVWMatrix.from_dense(A.toarray(), layout="hybrid")
    assert B.remainder is None
    assert B.nbytes <= A.nbytes


def test_a_remainder_goes_into_no_graph(monkeypatch):
    """On a GPU; what captures is only said here."""
    from tvwarray._backends import csr

    extra = sp.csr_array(([1.0], ([0], [3])), shape=(16, 16))
    A = TVWMatrix(np.eye(16)).with_remainder(extra)
    assert A.storage.remainder is not None
    np.testing.assert_array_equal(tvwarray.matmul(A, np.eye(16), backend="array"), A.toarray())
    monkeypatch.setattr(csr, "capturing", lambda x: True)
    with pytest.raises(tvwarray.BackendError, match="cannot be captured in a CUDA graph"):
        tvwarray.matmul(A, np.eye(16), backend="array")
