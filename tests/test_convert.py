"""Round trips of every conversion pair.

Axes: class of matrix x dtype x memory layout x tile_rows x vector, drawn by `strategies`. Equality
is of bits, after -0.0 and explicit zeros became +0.0 (their documented fate); the order of slots is
not compared, except where a matrix is TVW or 2:4 as it stands.
"""

from __future__ import annotations

import array_api_strict as xp
import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import (
    ALL_DTYPES,
    COMPLEX,
    FLOATS,
    INTEGERS,
    dense_matrices,
    dtype,
    pattern,
    storages,
)

import tvwarray
from tvwarray import FormatError, TVWMatrix

SCIPY_DTYPES = [*FLOATS, *COMPLEX, *INTEGERS, "bool"]
tile_heights = st.sampled_from(["auto", 16, 33, 64, 128, 256, 1024])
vectors = st.sampled_from([(2, 4), None])


def native(a):
    return a.astype(a.dtype.newbyteorder("=")) if not a.dtype.isnative else a


def plain(a):
    """Return `a` with its zeros positive."""
    a = native(np.ascontiguousarray(a))
    return np.where(a == 0, np.zeros((), a.dtype), a)


def same_bits(got, expected):
    got, expected = np.ascontiguousarray(got), np.ascontiguousarray(expected)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


@given(dense_matrices(special=True), tile_heights, vectors)
def test_dense_round_trip(a, tile_rows, vector):
    before = a.copy()
    A = TVWMatrix.from_dense(a, tile_rows=tile_rows, vector=vector)
    A.storage.check()
    same_bits(A.toarray(), plain(a))
    same_bits(A.T.toarray(), plain(a).T)
    same_bits(native(a), native(before))
    assert A.nnz == np.count_nonzero(a)
    assert A.dtype.isnative


@given(storages(special=True, repeats=False))
def test_storage_to_dense_puts_every_value_in_its_place(s):
    s.check()
    expected = np.zeros(s.shape, s.dtype)
    for row, col, value in oracle.entries(s):
        if value != 0:
            expected[row, col] = value
    same_bits(plain(TVWMatrix.from_storage(s).toarray()), expected)


def test_signaling_nans_do_not_warn():
    for name, bits, nan in (("bfloat16", np.uint16, 0x7FA0), ("float32", np.uint32, 0x7FA00000)):
        a = np.zeros((4, 16), bits)
        a[1, 3] = nan
        a = a.view(dtype(name))
        A = TVWMatrix(a)
        A.storage.check()
        assert A.nnz == 1
        assert A.toarray().tobytes() == a.tobytes()
        assert A.tocsr().nnz == 1


@given(storages(dtypes=["int32", "float64"]))
def test_storage_to_dense_adds_repeated_columns_exactly(s):
    same_bits(TVWMatrix.from_storage(s).toarray(), oracle.dense(s).astype(s.dtype))


@settings(max_examples=8)
@given(storages(dtypes=["float32", "int8"], tall=True))
def test_tall_tiles_convert_and_multiply(s):
    """Up to 1024 rows; the engine cuts such tiles, the array backend does not."""
    s.check()
    A = TVWMatrix.from_storage(s)
    exact = oracle.dense(s)
    np.testing.assert_array_equal(A.toarray(), exact.astype(s.dtype))
    np.testing.assert_array_equal(A.tocsr().toarray(), exact.astype(s.dtype))
    B = TVWMatrix(A.toarray(), tile_rows=s.tile_rows)
    assert B.storage.rows_of.max(initial=0) <= s.tile_rows
    np.testing.assert_array_equal(B.toarray(), A.toarray())
    X = np.random.default_rng(0).integers(-3, 4, (s.shape[1], 3)).astype(s.dtype)
    product = exact @ X.astype(np.longdouble)  # small integers and halves: exact in float32
    for backend in ("array", None):
        np.testing.assert_array_equal(tvwarray.matmul(A, X, backend=backend), product)


@given(storages(special=True, repeats=False))
def test_storage_through_dense_and_back(s):
    A = TVWMatrix.from_storage(s)
    B = TVWMatrix.from_dense(A.toarray(), vector=s.vector)
    same_bits(B.toarray(), plain(A.toarray()))


# scipy warns that a random matrix has many diagonals.
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
@given(data=st.data())
def test_scipy_round_trip(form, data):
    a = data.draw(dense_matrices(dtypes=SCIPY_DTYPES, special=form in ("csr", "csc", "coo")))
    a = native(a)
    given_matrix = sp.coo_array(a).asformat(form)
    A = TVWMatrix.from_scipy(
        given_matrix, tile_rows=data.draw(tile_heights), vector=data.draw(vectors)
    )
    A.storage.check()
    same_bits(A.toarray(), plain(a))
    back = A.asformat(form)
    assert back.format == form
    assert back.dtype == a.dtype
    same_bits(back.toarray(), plain(a))


@given(dense_matrices(dtypes=ALL_DTYPES, special=True), tile_heights, vectors)
def test_to_csr_is_canonical_and_widens_narrow_types(a, tile_rows, vector):
    csr = TVWMatrix.from_dense(a, tile_rows=tile_rows, vector=vector).tocsr()
    narrow = a.dtype.kind == "V" or a.dtype.name in (
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
    )
    expected = plain(a).astype(np.float32) if narrow else plain(a)
    assert csr.has_canonical_format
    assert csr.nnz == np.count_nonzero(a)
    if not narrow:
        same_bits(csr.toarray(), expected)
    else:
        np.testing.assert_array_equal(csr.toarray(), expected)


@given(storages(dtypes=["float64", "complex128", "int64"]))
def test_any_storage_to_every_sparse_form(s):
    A = TVWMatrix.from_storage(s)
    exact = oracle.dense(s).astype(s.dtype)
    for got in (
        A.tocsr(),
        A.tocsc(),
        A.tocoo(),
        A.tobsr(),
        A.T.tocsr().T,
        A.T.tocsc().T,
        A.T.tocoo().T,
    ):
        same_bits(got.toarray(), exact)
    assert A.tocsr().has_canonical_format


@given(st.data())
def test_explicit_zeros_and_duplicates(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.integers(0, 60))
    i, j = rng.integers(0, 20, n), rng.integers(0, 30, n)
    v = rng.integers(-2, 3, n).astype(np.float64)
    expected = np.zeros((20, 30))
    for row, col, value in zip(i, j, v, strict=True):
        expected[row, col] += value
    coo = sp.coo_array((v, (i, j)), shape=(20, 30))
    for A in (
        TVWMatrix.from_scipy(coo),
        TVWMatrix((v, (i, j)), shape=(20, 30)),
        TVWMatrix(coo.tocsr()),
    ):
        same_bits(A.toarray(), expected + 0.0)
        assert A.nnz == np.count_nonzero(expected)
    csr = sp.csr_array(coo)
    stored = csr.nnz
    TVWMatrix.from_scipy(csr)
    assert csr.nnz == stored  # the caller's matrix is not changed


@pytest.mark.parametrize("tile_rows", [16, 64])
@given(st.integers(0, 2**32 - 1))
def test_a_tvw_matrix_comes_back_in_its_own_slots(tile_rows, seed):
    W = np.random.default_rng(seed).standard_normal((3 * tile_rows, 96)).astype(np.float32)
    natural = {"permute": False, "group_rows": False}
    A = tvwarray.sparsify(W, 0.75, tile_rows=tile_rows, **natural)
    kept = [set(t.cols[t.cols >= 0]) for t in A.tiles]
    held = [set(np.flatnonzero(A.toarray()[t.rows].any(axis=0))) for t in A.tiles]
    assume(kept == held)  # a kept column without a value leaves no trace in the dense matrix
    for B in (
        TVWMatrix.from_dense(A.toarray(), tile_rows=tile_rows, layout="exact"),
        TVWMatrix.from_scipy(A.tocsr(), tile_rows=tile_rows, layout="exact"),
    ):
        np.testing.assert_array_equal(B.storage.col_indices, A.storage.col_indices)
        same_bits(B.storage.data, A.storage.data)
        same_bits(B.storage.meta, A.storage.meta)


@given(st.integers(1, 70), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_24_matrix_comes_back_in_natural_slots(rows, groups, seed):
    rng = np.random.default_rng(seed)
    keep = pattern(rng, "2:4", rows, 4 * groups, 16)
    a = np.where(keep, rng.standard_normal(keep.shape), 0)
    A = TVWMatrix.from_dense(a, layout="exact", tile_rows=32)
    for tile in A.tiles:
        np.testing.assert_array_equal(tile.cols[: 4 * groups], np.arange(4 * groups))
        assert (tile.cols[4 * groups :] == -1).all()


@given(dense_matrices(dtypes=["float32"]))
def test_exact_layout_refuses_just_what_is_neither_tvw_nor_24(a):
    try:
        A = TVWMatrix.from_dense(a, tile_rows=256, layout="exact")
    except FormatError as e:
        message = str(e)
    else:
        same_bits(A.toarray(), plain(a))
        return
    assert oracle.crowded(a)
    assert "a 2:4 group holds at most 2" in message
    row = int(message.split()[1].rstrip(","))
    cols = [int(c) for c in message.split("columns ")[1].split(" hold")[0].split(", ")]
    assert np.count_nonzero(a[row, cols]) > 2


def test_auto_tile_rows():
    two_four = np.tile(np.array([[1.0, 0, 2, 0]]), (300, 8))
    assert TVWMatrix(two_four).tile_rows == 1024
    assert TVWMatrix(sp.csr_array(two_four)).tile_rows == 1024
    assert TVWMatrix(np.ones((300, 30)), vector=None).tile_rows == 1024
    pruned = two_four.copy()
    pruned[:, :4] = 0  # the same columns everywhere: tall tiles lose nothing
    assert TVWMatrix(pruned).tile_rows == 1024
    for height in (32, 64, 128):
        W = np.random.default_rng(0).standard_normal((1024, 512))
        A = tvwarray.sparsify(W, 0.75, tile_rows=height, permute=False, group_rows=False)
        for matrix in (A.toarray(), A.tocsr()):
            assert TVWMatrix(matrix).tile_rows == height
            assert TVWMatrix.from_dense(A.toarray(), layout="exact").tile_rows == height
    assert TVWMatrix(np.ones((300, 30))).tile_rows == 128  # shared by more rows, fetched less often
    assert TVWMatrix(np.eye(300)).tile_rows == 32  # nothing is shared, and low tiles pad less
    for nothing in ((4, 4), np.zeros((300, 32))):
        assert TVWMatrix(nothing).tile_rows == 128


def test_a_mask_says_what_is_stored():
    a = np.arange(64, dtype=np.float32).reshape(2, 32)
    mask = np.zeros(a.shape, bool)
    mask[:, ::4] = True
    A = TVWMatrix.from_dense(a, mask=mask)
    np.testing.assert_array_equal(A.toarray(), np.where(mask, a, 0))
    assert 0 in A.storage.col_indices  # column 0 of row 0 holds a zero and keeps its place
    with pytest.raises(FormatError, match="mask is float32"):
        TVWMatrix.from_dense(a, mask=a)
    with pytest.raises(FormatError, match="must be bool of shape"):
        TVWMatrix.from_dense(a, mask=mask[:1])


def test_many_tiles_and_wide_rows():
    rng = np.random.default_rng(0)
    a = sp.random_array((40_000, 3000), density=1e-3, rng=rng, format="csr")
    A = TVWMatrix.from_scipy(a, tile_rows=16)
    A.storage.check()
    assert A.storage.num_tiles > 2000
    assert (A.tocsr() != a).nnz == 0


def test_huge_shapes_cost_nothing():
    A = TVWMatrix((2**31 - 1, 2**31 - 1))
    assert A.nbytes < 100
    assert A.tocoo().shape == A.shape
    one = TVWMatrix(([2.5], ([2**31 - 2], [2**31 - 2])), shape=(2**31 - 1, 2**31 - 1))
    assert one.nnz == 1
    assert one.nbytes < 1000
    with pytest.raises(FormatError, match=r"0 to 2\*\*31 - 1"):
        TVWMatrix((2**31, 1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.zeros(3), "1 dimension"),
        (np.zeros((2, 2), object), "object"),
        (np.zeros((2, 2), "U3"), "str"),
        (np.zeros((2, 2), "M8[s]"), "datetime"),
        ([[1, 2], [3]], "no matrix"),
    ],
)
def test_bad_dense_input(bad, message):
    with pytest.raises(FormatError, match=message):
        TVWMatrix(bad)


def test_bad_options():
    a = np.eye(4)
    for options, message in (
        ({"tile_rows": 8}, "16 to 1024"),
        ({"tile_rows": 1025}, "16 to 1024"),
        ({"vector": (1, 4)}, r"\(2, 4\)"),
        ({"layout": "tight"}, "lossless"),
    ):
        with pytest.raises(FormatError, match=message):
            TVWMatrix.from_dense(a, **options)
        with pytest.raises(FormatError, match=message):
            TVWMatrix.from_scipy(sp.csr_array(a), **options)
    with pytest.raises(FormatError, match="1 dimensions"):
        TVWMatrix.from_scipy(sp.coo_array(np.ones(3)))
    with pytest.raises(FormatError, match=r"longdouble|float128"):
        TVWMatrix.from_scipy(sp.csr_array(np.eye(3, dtype=np.longdouble)))


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_cupyx_matrices_come_by_the_same_path(form):
    """A stand-in with what cupyx offers: `get` to the host, values on a device out of reach."""
    device = xp.Device("device1")
    host = sp.random_array((40, 50), density=0.2, rng=np.random.default_rng(0)).asformat(form)

    class OnDevice:
        data = xp.asarray(host.data, device=device)

        def get(self):
            return host

    OnDevice.__module__ = "cupyx.scipy.sparse._csr"
    for A in (TVWMatrix(OnDevice()), TVWMatrix.from_scipy(OnDevice())):
        assert A.device == device
        A.storage.check()
        same_bits(A.to_device("cpu").toarray(), host.toarray())
        same_bits(A.tocsr().toarray(), host.toarray())
        assert A.copy().device == device
        parts = A.to_components()
        assert all(v.device == device for v in parts.values() if hasattr(v, "device"))
        assert (A * 2).device == device


@pytest.mark.parametrize("make", [TVWMatrix, TVWMatrix.from_dense, tvwarray.analyze])
def test_masked_arrays_are_refused(make):
    a = np.ma.masked_array(np.eye(4), mask=np.eye(4))
    with pytest.raises(FormatError, match=r"masked; fill it first: x\.filled\(0\)"):
        make(a)
    assert TVWMatrix(a.filled(0)).nnz == 0
