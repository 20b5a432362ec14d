"""The backend "cuda" from the public API down, on a machine without a GPU; and its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher
from kernel_problems import BFLOAT16, exact, products, rounding, uniform

import tvwarray
from tvwarray import BackendError, TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends.array import BACKEND as ARRAY_BACKEND
from tvwarray._backends.cuda import BACKEND, CudaBackend
from tvwarray._kernels.launch import CupyLauncher


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> InterpreterLauncher:
    """Offer "cuda", through the interpreter, before "array"."""
    launcher = InterpreterLauncher("90")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher), ARRAY_BACKEND])
    return launcher


@settings(max_examples=60)
@given(data=st.data())
def test_cuda_equals_array_for_drawn_matrices(data: st.DataObject) -> None:
    """`matmul(A, X)` by name, both backends, any matrix and memory order; sums are exact."""
    kind = data.draw(st.sampled_from(["float16", "bfloat16"]))
    a = TVWMatrix.from_storage(data.draw(strategies.storages(dtypes=[kind])))
    x = data.draw(strategies.operands(a.shape[1], dtypes=[kind]))
    with pytest.MonkeyPatch.context() as patch:
        offered = [CudaBackend(InterpreterLauncher("90")), ARRAY_BACKEND]
        patch.setattr(products_module, "BACKENDS", offered)
        got = tvwarray.matmul(a, x, backend="cuda")
        expected = tvwarray.matmul(a, x, backend="array")
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=20)
@given(products(values="normals"))
def test_the_operator_is_bounded(product: Any) -> None:
    """`A @ X` with real values: the float32 bound, and one rounding."""
    with pytest.MonkeyPatch.context() as patch:
        launcher = InterpreterLauncher("80")
        patch.setattr(products_module, "BACKENDS", [CudaBackend(launcher), ARRAY_BACKEND])
        got = TVWMatrix.from_storage(product.storage) @ product.x
    assert len(launcher.reports) == (got.size > 0)
    y, size, terms = exact(product)
    bound = terms[:, None] * 2.0**-24 * size
    error = abs(got.astype(np.float64) - y)
    assert (error <= bound + rounding(abs(y) + bound, got.dtype)).all()


def test_the_public_api_reaches_the_kernel(launcher: InterpreterLauncher) -> None:
    """Selection, `out`, a vector, `linear`; packed once."""
    product = uniform(48, 64, 24, tile_rows=16, keep=0.5, dtype=BFLOAT16)
    a, x = TVWMatrix.from_storage(product.storage), product.x
    y = exact(product)[0].astype(BFLOAT16)
    assert str(tvwarray.select_backend(a, x)) == "cuda: selected"
    np.testing.assert_array_equal(a @ x, y)
    out = np.empty((48, 24), BFLOAT16)
    assert tvwarray.matmul(a, x, out=out) is out
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(a @ x[:, 3], y[:, 3])
    np.testing.assert_array_equal(tvwarray.linear(x.T, a), y.T)
    assert len(launcher.reports) == 4


def test_what_the_kernel_refuses_goes_to_the_next_backend(launcher: InterpreterLauncher) -> None:
    """Other dtypes, mixed ones, the transpose: each with a reason in a sentence."""
    product = uniform(32, 48, 8, tile_rows=16, keep=0.5)
    a, x = TVWMatrix.from_storage(product.storage), product.x
    assert reason(a.astype(np.int16), x.astype(np.int16)) == (
        "tensor cores have no products of int16"
    )
    assert reason(a, x.astype(BFLOAT16)) == ("needs A and X of one dtype, got float16 and bfloat16")
    narrow = np.ones((32, 8), np.int16)
    assert reason(a.astype(np.int16).T, narrow) == "tensor cores have no products of int16"
    assert (a.astype(np.int16).T @ narrow).shape == (48, 8)
    with pytest.raises(BackendError, match=r"cuda: tensor cores have no products of int16"):
        tvwarray.matmul(a.astype(np.int16), x.astype(np.int16), backend="cuda")
    assert not launcher.reports


def reason(a: Any, x: Any) -> str:
    """Return why "cuda" is passed over."""
    return dict(tvwarray.select_backend(a, x).refusals)["cuda"]


def test_host_arrays_are_refused_without_importing_cupy() -> None:
    storage = uniform(16, 16, 8, tile_rows=16, keep=1.0).storage
    x = np.ones((16, 8), np.float16)
    assert BACKEND.refusal(storage, x) == "needs CuPy arrays on a CUDA device, got numpy arrays"
    code = (
        "import sys, numpy as np\n"
        "from tvwarray._backends.cuda import BACKEND\n"
        "from tvwarray import TVWMatrix\n"
        "a = TVWMatrix(np.eye(16, dtype=np.float16))\n"
        "assert BACKEND.refusal(a.storage, np.eye(16, dtype=np.float16))\n"
        "assert 'cupy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(__file__))


def test_cupy_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    monkeypatch.setattr("array_api_compat.is_cupy_array", lambda x: True)
    if cupy.is_available():
        monkeypatch.setattr(cupy, "is_available", lambda: False)
    assert CupyLauncher().refusal(np.ones(3)) == (
        "needs a CUDA device: cupy.is_available() is False"
    )


def test_matmul_wants_what_pack_made(launcher: InterpreterLauncher) -> None:
    backend = CudaBackend(launcher)
    with pytest.raises(BackendError, match=r"what its pack\(\) made"):
        backend.matmul(object(), np.ones((4, 4), np.float16))


def test_the_plan_lists_every_kernel(launcher: InterpreterLauncher) -> None:
    backend, product = CudaBackend(launcher), uniform(128, 64, 64, tile_rows=64, keep=1.0)
    packed = backend.pack(product.storage)
    lines = str(backend.plan(packed, product.x)).splitlines()
    assert len(lines) == len(backend.plan(packed, product.x).candidates)
    kernels = [line.split()[0] for line in lines]
    assert set(kernels) == {"sm80_tvw_few", "sm80_tvw_gemm", "sm90_tvw_gemm"}
    assert all(" float16 2:4 " in line for line in lines)
    assert all(
        " us (launch " in str(c) or c.refusal for c in backend.plan(packed, product.x).candidates
    )


def test_a_matrix_and_its_packed_form_go_together(launcher: InterpreterLauncher) -> None:
    import gc
    import weakref

    product = uniform(32, 32, 8, tile_rows=16, keep=1.0)
    a = TVWMatrix.from_storage(product.storage)
    a @ product.x
    packed = weakref.ref(products_module.packed_for(a.storage, products_module.BACKENDS[0]))
    assert packed() is not None
    del a, product
    gc.collect()
    assert packed() is None
