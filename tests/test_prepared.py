"""Products that were checked before go straight to their backend, and only those."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import tvwarray
from tvwarray import TVWMatrix, _matmul
from tvwarray._prepared import MOST_KEYS, is_cupy, signature


def matrix():
    return tvwarray.sparsify(np.random.default_rng(0).standard_normal((64, 48)), 0.75)


def asked(monkeypatch):
    """Count how often the choice of a backend is made."""
    calls = []
    select = _matmul._select
    monkeypatch.setattr(_matmul, "_select", lambda *a, **k: calls.append(a) or select(*a, **k))
    return calls


def test_the_second_product_asks_nobody(monkeypatch):
    A, calls = matrix(), asked(monkeypatch)
    x = np.random.default_rng(1).standard_normal((48, 3))
    first = A @ x
    before = len(calls)
    np.testing.assert_array_equal(A @ x, first)
    np.testing.assert_array_equal(A @ x.copy(), first)
    np.testing.assert_array_equal(tvwarray.linear(x.T, A), first.T)
    assert len(calls) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :2],
        lambda x: x[:, 0],
        lambda x: x.astype(np.float32),
        lambda x: x.astype(">f8"),
        lambda x: x.tolist(),
        lambda x: np.ma.masked_array(x).filled(0),
    ],
)
def test_other_operands_are_looked_at_again(change):
    A = matrix()
    x = np.random.default_rng(1).standard_normal((48, 3))
    A @ x
    other = change(x)
    got = A @ other
    exact = A.toarray() @ np.asarray(other, np.float64)
    assert got.shape == exact.shape
    np.testing.assert_allclose(got, exact, atol=1e-4)


def test_what_was_refused_is_refused_again():
    A = matrix()
    x, out = np.ones((48, 2)), np.empty((64, 2))
    assert tvwarray.matmul(A, x, out=out) is out
    out.flags.writeable = False
    for wrong in (out, np.empty((64, 3)), np.empty((64, 2), np.float32)):
        for _ in range(2):
            with pytest.raises(ValueError, match="out is"):
                tvwarray.matmul(A, x, out=wrong)
    for _ in range(2):
        with pytest.raises(ValueError, match="must have 48 rows"):
            A @ np.ones((47, 2))


def test_transposes_are_products_of_their_own():
    A = TVWMatrix(np.random.default_rng(0).standard_normal((32, 32)))
    x = np.random.default_rng(1).standard_normal((32, 2))
    a = A.toarray()
    for _ in range(2):
        np.testing.assert_allclose(A @ x, a @ x, atol=1e-12)
        np.testing.assert_allclose(A.T @ x, a.T @ x, atol=1e-12)


def test_other_backends_are_asked_anew(monkeypatch):
    A, x = matrix(), np.ones((48, 2))
    A @ x
    (array,) = [b for b in _matmul.BACKENDS if b.name == "array"]
    monkeypatch.setattr(_matmul, "BACKENDS", [array])
    ran = []
    multiply = type(array).matmul
    monkeypatch.setattr(
        type(array), "matmul", lambda *a, **k: ran.append(1) or multiply(*a, **k), raising=True
    )
    A @ x
    assert ran


def test_many_shapes_do_not_pile_up():
    A = TVWMatrix(np.eye(16))
    for n in range(1, MOST_KEYS + 20):
        A @ np.ones((16, n))
    assert len(_matmul._PREPARED._known[A.storage]) <= MOST_KEYS


def test_a_matrix_and_what_was_prepared_go_together():
    A = TVWMatrix(np.eye(16))
    A @ np.ones(16)
    before = len(_matmul._PREPARED._known)
    del A
    gc.collect()
    assert len(_matmul._PREPARED._known) < before


def test_subclasses_and_batches_are_always_looked_at():
    masked = np.ma.masked_array(np.ones((2, 2)))
    assert signature(masked, None) is None
    assert signature(np.ones((2, 2)), masked) is None
    assert signature(np.ones((2, 2, 2)), None) is None


def test_arrays_of_cupy_are_known_by_their_type():
    cupy = pytest.importorskip("cupy")
    assert is_cupy(cupy.ndarray)
    assert not is_cupy(np.ndarray)
    assert not is_cupy(type("Masked", (cupy.ndarray,), {}))


@pytest.mark.gpu
def test_the_second_product_asks_nobody_on_a_gpu(monkeypatch):
    import cupy

    A, calls = matrix().astype(np.float16).to_device(cupy.empty(0)), asked(monkeypatch)
    x = cupy.random.default_rng(1).standard_normal((48, 16)).astype(np.float16)
    first = A @ x
    before = len(calls)
    assert ((A @ x) == first).all()
    assert len(calls) == before
