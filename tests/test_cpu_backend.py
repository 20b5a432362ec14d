"""When the compiled engine is in use, what it refuses, and what never reaches its kernels."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import array_api_strict
import numpy as np
import pytest
from cpu_cases import COMPILED, compiled_only
from strategies import in_memory

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._backends.cpu import BACKEND
from tvwarray._matmul import packed_for


@compiled_only
def test_the_engine_is_the_one_in_use():
    A = TVWMatrix(np.eye(32, dtype=np.float32))
    selection = tvwarray.select_backend(A, np.ones((32, 2), np.float32))
    assert str(selection).endswith("cpu: selected")


@compiled_only
@pytest.mark.parametrize(
    ("a", "x", "reason"),
    [
        ("int16", "int16", "A holds int16"),
        ("float32", "float64", "float32 with float32, float16, bfloat16, not float64"),
        ("float64", "float32", "float64 with float64, not float32"),
        ("int8", "uint8", "int8 with int8, not uint8"),
        ("complex64", "complex64", "A holds complex64"),
    ],
)
def test_refusals_name_the_types(a, x, reason):
    s = TVWMatrix(np.eye(16, dtype=a)).storage
    assert reason in BACKEND.refusal(s, np.ones((16, 1), x))


@compiled_only
def test_refusals_of_other_libraries():
    s = TVWMatrix(np.eye(16, dtype=np.float32)).storage
    other = array_api_strict.ones((16, 1), dtype=array_api_strict.float32)
    assert "array_api_strict" in BACKEND.refusal(s, other)


def test_without_the_extension_products_run_on_numpy():
    script = (
        "import numpy as np, tvwarray\n"
        "A = tvwarray.TVWMatrix(np.eye(32, dtype=np.float32))\n"
        "x = np.ones((32, 2), np.float32)\n"
        "assert (A @ x == x).all()\n"
        "print(tvwarray.select_backend(A, x))\n"
    )
    environment = {**os.environ, "TVWARRAY_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cpu: TVWARRAY_NATIVE=0" in done.stdout
    assert done.stdout.rstrip().endswith("array: selected")


@compiled_only
def test_what_is_packed_goes_with_the_matrix():
    A = TVWMatrix(np.eye(64, dtype=np.float32))
    A @ np.ones((64, 40), np.float32)
    packed = packed_for(A.storage, BACKEND)
    assert packed.nbytes > 0
    gone = weakref.ref(packed)
    del A, packed
    gc.collect()
    assert gone() is None


def broken(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a sound matrix of two tiles, some of them changed."""
    sound = {
        "rows": 32,
        "columns": 20,
        "type": "float32",
        "row_indptr": np.array([0, 16, 32], np.int32),
        "row_indices": np.arange(32, dtype=np.int32),
        "col_indptr": np.array([0, 16, 32], np.int32),
        "col_indices": np.tile(np.arange(16, dtype=np.int32), 2),
        "data": np.ones(256, np.float32),
        "meta": np.full(32, 0x4444, np.uint16),
    }
    rest = {
        "rest_indptr": np.array([0] * 8 + [1] * 25, np.int32),
        "rest_indices": np.array([3], np.int32),
        "rest_values": np.ones(1, np.float32),
    }
    return {**sound, **(rest if any(name in rest for name in changes) else {}), **changes}


@compiled_only
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_indices": np.arange(1, 33, dtype=np.int32)}, "row is outside"),
        ({"row_indices": np.zeros(32, np.int32)}, "two tiles"),
        ({"col_indices": np.full(32, 20, np.int32)}, "column is outside"),
        ({"col_indices": np.full(32, -2, np.int32)}, "column is outside"),
        ({"row_indptr": np.array([0, 33, 32], np.int32)}, "falls"),
        ({"row_indptr": np.array([0, 16, 31], np.int32)}, "span"),
        ({"col_indptr": np.array([0, 8, 32], np.int32)}, "multiple of 16"),
        ({"data": np.ones(255, np.float32)}, "data has not"),
        ({"meta": np.zeros(31, np.uint16)}, "meta has not"),
        ({"data": np.ones(256, np.float64)}, "item size"),
        ({"data": np.ones(512, np.float32)[::2]}, "not contiguous"),
        ({"type": "int32"}, "not stored as int32"),
        ({"type": "quad"}, "no such type"),
        ({"isa": "z80"}, "has no z80"),
        ({"rest_indptr": np.zeros(32, np.int32)}, "remainder have not the lengths"),
        ({"rest_values": np.ones(2, np.float32)}, "remainder have not the lengths"),
        ({"rest_indptr": np.zeros(33, np.int32)}, "span"),
        ({"rest_indices": np.array([20], np.int32)}, "remainder's column is outside"),
        ({"col_indptr": np.array([0], np.int32)}, "different tiles"),
        ({"row_indptr": np.array([], np.int32), "col_indptr": np.array([], np.int32)}, "tiles"),
    ],
)
def test_arrays_out_of_order_never_reach_a_kernel(changes, message):
    with pytest.raises(ValueError, match=message):
        COMPILED.Matrix(**broken(**changes))


@compiled_only
@pytest.mark.parametrize(
    ("x", "out", "types", "bias", "message"),
    [
        ((20, 3), (31, 3), "float32", None, "shapes"),
        ((19, 3), (32, 3), "float32", None, "shapes"),
        ((20, 3), (32, 4), "float32", None, "shapes"),
        ((20, 3), (32, 3), "float64", None, "types"),
        ((20, 3), (32, 3), "float32", np.ones(31, np.float32), "bias"),
        ((20, 3), (32, 3), "float32", np.ones(64, np.float32)[::2], "contiguous"),
        ((20, 3), (32, 3), "float32", np.ones(32, np.float64), "item size"),
    ],
)
def test_operands_that_do_not_fit_never_reach_a_kernel(x, out, types, bias, message):
    matrix = COMPILED.Matrix(**broken())
    with pytest.raises(ValueError, match=message):
        matrix.multiply(np.ones(x, types), types, np.ones(out, types), types, bias)


@compiled_only
def test_out_must_be_writable_and_contiguous_somewhere():
    matrix = COMPILED.Matrix(**broken())
    x = np.ones((20, 3), np.float32)
    out = in_memory(np.ones((32, 3), np.float32), "read-only")
    with pytest.raises((BufferError, ValueError)):
        matrix.multiply(x, "float32", out, "float32")
    with pytest.raises(ValueError, match="neither axis"):
        matrix.multiply(x, "float32", np.ones((64, 6), np.float32)[::2, ::2], "float32")
