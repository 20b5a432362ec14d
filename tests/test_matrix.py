"""`TVWMatrix`: what it takes, what it says of itself, scalars and copies."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import dense_matrices, storages

import tvwarray
from tvwarray import FormatError, TVWMatrix, _describe

EYE = np.eye(20, 30, dtype=np.float32)


def test_constructor_takes_what_bsr_array_takes():
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 3, (12, 18)).astype(np.float64)
    bsr = sp.bsr_array(dense, blocksize=(3, 2))
    coo, csr = sp.coo_array(dense), sp.csr_array(dense)
    for arg in (
        dense,
        dense.tolist(),
        bsr,
        csr,
        sp.csr_matrix(dense),
        TVWMatrix(dense),
        (coo.data, coo.coords),
        (coo.data.tolist(), [c.tolist() for c in coo.coords]),
        (bsr.data, bsr.indices, bsr.indptr),
        (csr.data, csr.indices, csr.indptr),
    ):
        A = TVWMatrix(arg, shape=(12, 18))
        A.storage.check()
        np.testing.assert_array_equal(A.toarray(), dense)
        half = TVWMatrix(arg, shape=(12, 18), dtype=np.float16, tile_rows=16, vector=None)
        assert half.dtype == np.float16
    empty = TVWMatrix((3, 5), dtype="int8")
    assert (empty.shape, empty.dtype, empty.nnz) == ((3, 5), np.int8, 0)
    np.testing.assert_array_equal(empty.toarray(), np.zeros((3, 5), np.int8))
    assert TVWMatrix((3, 5)).dtype == np.float64
    half = TVWMatrix((np.array([1, 2, 4], np.float16), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half.toarray(), [[0, 3], [4, 0]])


@pytest.mark.parametrize(
    ("arg", "options", "message"),
    [
        (EYE, {"shape": (20, 31)}, r"shape is \(20, 31\), but the argument has shape \(20, 30\)"),
        (TVWMatrix(EYE), {"shape": (30, 20)}, r"shape is \(30, 20\), but the argument"),
        (([1.0], ([0], [5])), {"shape": (2, 2)}, "no matrix"),
        (([1.0, 2.0], ([0], [1])), {}, "no matrix"),
        (([1.0], [0, 7], [0, 1]), {"shape": (1, 2)}, "no matrix"),
        ((np.ones((1, 2, 2)), [9], [0, 1]), {"shape": (2, 2)}, "no matrix"),
        ("text", {}, "matrix"),
        (object(), {}, "0 dimensions"),
        ((-1, 4), {}, "shape is"),
        (EYE, {"dtype": "float128"}, "float128|longdouble"),
        (EYE, {"dtype": "nonsense"}, "no dtype"),
    ],
)
def test_constructor_refuses(arg, options, message):
    with pytest.raises(FormatError, match=message):
        TVWMatrix(arg, **options)


@given(storages(special=True))
def test_pickle_and_copies(s):
    A = TVWMatrix.from_storage(s)
    for B in (
        pickle.loads(pickle.dumps(A)),
        copy.copy(A),
        copy.deepcopy(A),
        A.copy(),
        TVWMatrix(A, copy=True),
    ):
        B.storage.check()
        assert B.shape == A.shape
        assert B.toarray().tobytes() == A.toarray().tobytes()
    for B in (A.T.copy(), pickle.loads(pickle.dumps(A.T)), TVWMatrix(A.T)):
        assert B.shape == A.shape[::-1]
        assert B.toarray().tobytes() == A.toarray().T.tobytes()
    assert TVWMatrix(A).storage is A.storage
    fresh = A.copy().storage
    assert not any(
        np.shares_memory(a, b)
        for a, b in zip(vars(fresh).values(), vars(s).values(), strict=False)
        if isinstance(a, np.ndarray) and a.size and isinstance(b, np.ndarray)
    )


@given(storages(special=True))
def test_components_round_trip(s):
    parts = TVWMatrix.from_storage(s).to_components()
    for x in parts.values():
        if isinstance(x, np.ndarray):
            assert x.flags.writeable
            assert x.flags.c_contiguous
            assert x.ctypes.data % 64 == 0 or not x.size
    B = TVWMatrix.from_components(**parts)
    assert pickle.dumps(B) == pickle.dumps(TVWMatrix.from_storage(s))


def test_a_remainder_adds_up():
    tiles, beside = np.eye(20, 30, dtype=np.float32), np.zeros((20, 30), np.float32)
    beside[3, 7], beside[4, 4], beside[5, 5] = 2.5, 1, -1
    A = TVWMatrix(tiles).with_remainder(sp.csr_array(beside))
    A.storage.check()
    assert A.nnz == 23
    assert "3 entries beside them" in repr(A)
    for got in (A, A.T.T, A.copy(), A.astype(np.float64), A * 1, pickle.loads(pickle.dumps(A))):
        np.testing.assert_array_equal(got.toarray(), tiles + beside)
    np.testing.assert_array_equal(A.tocsr().toarray(), tiles + beside)
    np.testing.assert_array_equal(A.tocoo().toarray(), tiles + beside)
    np.testing.assert_array_equal(A.remainder.toarray(), beside)
    np.testing.assert_array_equal(A.T.remainder.toarray(), beside.T)
    np.testing.assert_array_equal((A * np.inf).remainder.data, [np.inf, np.inf, -np.inf])
    assert TVWMatrix(tiles).remainder is None
    twice = A.T.with_remainder(sp.coo_array(beside.T))
    np.testing.assert_array_equal(twice.toarray(), (tiles + 2 * beside).T)
    with pytest.raises(FormatError, match="the remainder is"):
        A.with_remainder(sp.csr_array(beside.T))
    with pytest.raises(FormatError, match=r"0\.1 has no exact float32 value"):
        A.with_remainder(sp.csr_array(([0.1], ([0], [1])), shape=(20, 30)))
    with pytest.raises(FormatError, match="remainder beside its tiles"):
        TVWMatrix(np.zeros((4, 8))).with_remainder(sp.eye_array(4, 8)).to_24()


def test_components_are_checked():
    parts = TVWMatrix(EYE).to_components()
    with pytest.raises(FormatError, match="missing: data"):
        TVWMatrix.from_components(**{k: v for k, v in parts.items() if k != "data"})
    with pytest.raises(FormatError, match="unknown: values"):
        TVWMatrix.from_components(**parts, values=parts["data"])
    with pytest.raises(FormatError, match="data is a list"):
        TVWMatrix.from_components(**{**parts, "data": [1.0]})
    with pytest.raises(FormatError, match="data has 1 entries"):
        TVWMatrix.from_components(**{**parts, "data": parts["data"][:1]})


@given(
    dense_matrices(dtypes=["float32", "float64", "int32", "complex64"]),
    st.sampled_from([2, -1.5, 0, np.float32(3), np.array(2.0), np.inf, True]),
)
def test_scalars(a, c):
    A = TVWMatrix(a)
    entries = a != 0
    with np.errstate(all="ignore"):
        for got, change in (
            (A * c, lambda d: d * c),
            (c * A, lambda d: c * d),
            (A / 2, lambda d: d / 2 if d.dtype.kind == "c" else d.astype(np.float64) / 2),
        ):
            expected = np.where(entries, change(a), 0)
            assert got.dtype == change(a).dtype
            np.testing.assert_array_equal(got.toarray(), expected)
    got = -A
    np.testing.assert_array_equal(got.toarray(), -a)
    assert not np.signbit(got.toarray()[~entries].real).any()
    assert +A is A
    assert A.dot(2).dtype == (A * 2).dtype
    got.storage.check()
    np.testing.assert_array_equal((A.T * 2).toarray(), (a * 2).T)


@given(
    storages(dtypes=["float32", "float64", "int8", "int32", "bfloat16"], repeats=False),
    st.sampled_from(["float16", "float32", "float64", "bfloat16", "int32", "bool", "complex64"]),
)
def test_astype(s, name):
    A = TVWMatrix.from_storage(s)
    target = np.dtype(getattr(ml_dtypes, name, name))
    B = A.astype(target)
    B.storage.check()
    assert B.dtype == target
    assert B.storage.col_indices is A.storage.col_indices or target == A.dtype
    for mine, theirs in zip(A.storage.data, B.storage.data, strict=True):
        assert mine.astype(target) == theirs
    assert A.astype(A.dtype, copy=False).storage is A.storage
    assert A.astype(A.dtype).storage is not A.storage
    assert A.T.astype(target).shape == A.shape[::-1]


def test_astype_refuses():
    A = TVWMatrix(EYE)
    with pytest.raises(TypeError, match="rule 'safe'"):
        A.astype(np.float16, casting="safe")
    assert A.astype(np.float64, casting="safe").dtype == np.float64
    with pytest.raises(FormatError, match="cannot hold"):
        A.astype("datetime64[s]")


def test_properties():
    A = TVWMatrix(EYE.astype(np.float16))
    assert (A.shape, A.ndim, A.dtype, A.format) == ((20, 30), 2, np.float16, "tvw")
    assert A.nnz == A.size == 20
    assert A.density == 20 / 600
    assert A.T.shape == A.mT.shape == A.transpose().shape == (30, 20)
    assert A.T.T.storage is A.storage
    assert A.T.transposed
    assert not A.T.T.transposed
    assert A.transpose(copy=True).storage is not A.storage
    assert (A.tile_rows, A.vector, A.device) == (128, (2, 4), "cpu")
    assert TVWMatrix((0, 5)).density == 0
    with pytest.raises(ValueError, match="pass None"):
        A.transpose((0, 1))
    with pytest.raises(ValueError, match="ambiguous"):
        bool(A)
    with pytest.raises(TypeError, match="ambiguous"):
        len(A)


def test_toarray_order_and_out():
    A = TVWMatrix(EYE)
    assert A.toarray("F").flags.f_contiguous
    assert A.todense(order="C").flags.c_contiguous
    out = np.ones((20, 30), np.float32)
    assert A.toarray(out=out) is out
    np.testing.assert_array_equal(out, EYE)
    with pytest.raises(ValueError, match="order cannot be given"):
        A.toarray(order="C", out=out)
    with pytest.raises(ValueError, match="order is 'K'"):
        A.toarray("K")
    with pytest.raises(ValueError, match="out is float64"):
        A.toarray(out=np.ones((20, 30)))


def test_asformat():
    A = TVWMatrix(EYE)
    assert A.asformat(None) is A
    assert A.asformat("tvw") is A
    assert A.asformat("tvw", copy=True).storage is not A.storage
    assert A.tobsr((2, 2)).blocksize == (2, 2)
    for name in ("csr", "csc", "coo", "bsr", "lil", "dok", "dia"):
        assert A.asformat(name).format == name
    with pytest.raises(ValueError, match="nope"):
        A.asformat("nope")


def test_24_goes_through_the_class():
    values, positions = np.arange(1.0, 17).reshape(2, 8), np.tile([0, 2], (2, 4))
    A = TVWMatrix.from_24(values, positions)
    np.testing.assert_array_equal(A.toarray()[:, ::2], values)
    for got, expected in zip(A.to_24(), (values, positions), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(FormatError, match=r"A\.T"):
        A.T.to_24()


def test_repr_says_what_one_holds():
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((300, 512)), 0.75)
    text = repr(A)
    assert "TVWMatrix 300x512 float64: 3 tiles of up to 128 rows, 2:4" in text
    assert f"{A.nnz:,} nonzeros ({100 * A.density:.3g} %)" in text
    assert f"{A.nbytes / 300 / 512 / 8:.2g} of dense" in text
    csr = A.tocsr()
    in_csr = csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes
    assert f"{A.nbytes / in_csr:.2g} of CSR" in text
    assert "TVWMatrix.T 512x300" in repr(A.T)
    assert "1 tile of" in repr(TVWMatrix(EYE))
    assert "0 tiles" in repr(TVWMatrix((0, 0)))
    assert "all slots" in repr(TVWMatrix(EYE, vector=None))
    texts = [_describe.bytes_text(n) for n in (0, 999.9, 2_359_296, 7e9)]
    assert texts == ["0 B", "1 kB", "2.36 MB", "7 GB"]


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (5, 3000), (3000, 5), (300, 500)])
def test_html_is_bounded_and_well_formed(shape):
    from xml.etree import ElementTree

    rng = np.random.default_rng(1)
    A = TVWMatrix((rng.random(shape) < 0.3).astype(np.float32), tile_rows=16)
    html = A._repr_html_()
    assert len(html) < 80_000
    ElementTree.fromstring(html.replace("<br>", "<br/>"))
    assert f"{shape[0]}x{shape[1]}" in html
    assert "the picture shows what is stored" in A.T._repr_html_()


def test_the_picture_shows_the_kept_columns():
    from tvwarray._plot import kept_share

    a = np.zeros((64, 64), np.float32)
    a[:32, :16] = 1
    a[32:, 48:] = 1
    share = kept_share(TVWMatrix(a, tile_rows=32, vector=None).storage, 4)
    np.testing.assert_array_equal(share, [[1, 0, 0, 0]] * 2 + [[0, 0, 0, 1]] * 2)
    huge = kept_share(TVWMatrix((2**31 - 1, 2**31 - 1)).storage, 64)
    assert huge.shape == (64, 64)
    assert not huge.any()


@pytest.mark.parametrize("arg", [EYE, {}, [[1]], None, "csr"])
def test_what_is_no_sparse_matrix(arg):
    for call in (TVWMatrix.from_scipy, TVWMatrix(EYE).with_remainder):
        with pytest.raises(
            FormatError, match=r"no sparse matrix of scipy or cupyx[^\0]*from_dense"
        ):
            call(arg)


def test_from_scipy_takes_its_own():
    A = TVWMatrix(EYE)
    np.testing.assert_array_equal(TVWMatrix.from_scipy(A.T, tile_rows=16).toarray(), EYE.T)
    np.testing.assert_array_equal(A.with_remainder(A).toarray(), 2 * EYE)
