"""Conversions to cupyx: the same code on scipy's classes and strict devices, where no GPU is."""

from __future__ import annotations

import sys

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import NARROW, storages

from tvwarray import BackendError, FormatError, TVWMatrix
from tvwarray._entries import entries
from tvwarray._sparray.cupyx import assemble

FORMATS = ["csr", "csc", "coo"]


@given(
    storages(dtypes=["float32", "float64", "complex64", *NARROW], max_side=40),
    st.booleans(),
    st.sampled_from(FORMATS),
)
def test_the_matrix_of_the_triples(s, transposed, form):
    got = assemble(s, transposed, form, sp, np)
    assert got.format == form
    assert got.dtype == (np.float32 if s.dtype.name in NARROW else s.dtype)
    assert got.has_canonical_format
    expected = oracle.dense(s)
    np.testing.assert_array_equal(got.toarray(), expected.T if transposed else expected)


@given(storages(dtypes=["float32", "bool", "int8"], max_side=40))
def test_triples_stay_on_their_device(s):
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device("device1")
    there = entries(s.mapped(lambda x: xp.asarray(x, device=device)))
    for got, expected in zip(there, entries(s), strict=True):
        assert got.device == device
        np.testing.assert_array_equal(
            np.from_dlpack(xp.asarray(got, device=xp.Device("CPU_DEVICE"))), expected
        )


def test_booleans_and_what_cupyx_has_no_matrix_for():
    kept = np.eye(3, 5, dtype=bool)
    got = assemble(TVWMatrix(kept).storage, False, "csr", sp, np)
    assert got.dtype == bool
    np.testing.assert_array_equal(got.toarray(), kept)
    with pytest.raises(FormatError, match=r"no int64 values.*astype"):
        assemble(TVWMatrix(kept.astype(np.int64)).storage, False, "csr", sp, np)
    with pytest.raises(FormatError, match='"csr", "csc" or "coo"'):
        assemble(TVWMatrix(np.eye(3)).storage, False, "bsr", sp, np)


def test_without_cupy_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", None)
    with pytest.raises(BackendError, match="pip install"):
        TVWMatrix(np.eye(3)).to_cupyx()


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMATS)
def test_there_and_back_on_a_gpu(form):
    import cupy

    a = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    a[np.abs(a) < 1.5] = 0
    on_gpu = TVWMatrix(a).to_device(cupy.empty(0))
    for A, expected in ((TVWMatrix(a), a), (on_gpu, a), (on_gpu.T, a.T)):
        s = A.to_cupyx(form)
        assert s.format == form
        np.testing.assert_array_equal(s.get().toarray(), expected)
        back = TVWMatrix.from_scipy(s)
        assert isinstance(back.storage.data, cupy.ndarray)
        np.testing.assert_array_equal(back.to_device("cpu").toarray(), expected)


@pytest.mark.gpu
def test_operators_of_cupy_arrays_come_here():
    import cupy

    a = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    A = TVWMatrix(a).to_device(cupy.empty(0))
    x = cupy.ones((5, 48), dtype=cupy.float32)
    for got, expected in (
        (x @ A.T, np.ones((5, 48), np.float32) @ a.T),
        (A @ x.T, a @ np.ones((48, 5), np.float32)),
        (cupy.asarray(a) + A, 2 * a),
        ((A * x[0]).toarray(), a),
    ):
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_allclose(got.get(), expected, rtol=1e-4, atol=1e-4)
