"""``A.T @ Y`` on a GPU: exact on integers, bounded on normals, the same bits, graphs, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_problems import BFLOAT16, FLOAT16, draw_tiles, integers, normals, rounding, storage_of
from test_gpu import ACCUMULATION, array_to_gpu, to_gpu
from test_kernels_types import FLOAT32, FLOAT64, INT8
from test_transposed import exact

import tvwarray
from tvwarray import Epilogue, TVWMatrix
from tvwarray._convert.transposed import transposed_pattern
from tvwarray._dtypes import product_dtype
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.transpose import copy_to, rows_of
from tvwarray._namespace import to_host

pytestmark = pytest.mark.gpu


def problem(dtype: Any, sparse: bool, values: Any, n: int = 200, seed: int = 0) -> Any:
    """Return a ragged matrix of all kinds of tiles, on host and GPU, and Y."""
    import cupy

    rng = np.random.default_rng(seed)
    heights, slots = [256, 75, 0, 130, 128, 33], [1024, 624, 64, 336, 16, 0]
    rows, tiles = draw_tiles(rng, heights, slots, 21, 900)
    storage = storage_of((rows, 900), tiles, dtype, sparse, values(rng), rng)
    y = values(rng)((rows, n)).astype(dtype)
    return storage, to_gpu(storage), y, cupy.asarray(y)


@pytest.mark.parametrize("sparse", [True, False], ids=["2:4", "all"])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, INT8, FLOAT32, FLOAT64], ids=str)
def test_every_type_is_exact_on_integers(dtype: Any, sparse: bool) -> None:
    """Laid out as on the host, which shares no kernel with it; then with other values."""
    import cupy

    storage, on_gpu, y, y_gpu = problem(dtype, sparse, lambda rng: integers(rng, 3))
    host = transposed_pattern(storage, (2, 4), 128).fill(storage)
    for _ in range(3):
        there = transposed_pattern(on_gpu, (2, 4), 128).fill(on_gpu)
        assert isinstance(there.data, cupy.ndarray)
        for name, x in there.arrays.items():
            np.testing.assert_array_equal(to_host(x), getattr(host, name))
    a = TVWMatrix.from_storage(on_gpu)
    z = exact(storage, y)[0].astype(product_dtype(dtype, dtype))
    np.testing.assert_array_equal(to_host(a.T @ y_gpu), z)
    by_columns = cupy.asfortranarray(y_gpu)
    np.testing.assert_array_equal(to_host(a.T @ by_columns), z)
    negative = replace(on_gpu, data=array_to_gpu(-storage.data))  # of the same pattern
    other = TVWMatrix.from_storage(negative)
    np.testing.assert_array_equal(to_host(other.T @ y_gpu), -z)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_normals_are_bounded_and_always_the_same(dtype: Any) -> None:
    storage, on_gpu, y, y_gpu = problem(dtype, True, normals)
    a = TVWMatrix.from_storage(on_gpu)
    results = [to_host(a.T @ y_gpu) for _ in range(5)]
    assert all(np.array_equal(results[0].view(np.uint16), r.view(np.uint16)) for r in results)
    z, size, terms = exact(storage, y)
    bound = ACCUMULATION * 2.0**-24 * terms[:, None] * size
    error = abs(results[0].astype(np.float64) - z)
    assert (error <= bound + rounding(abs(z) + bound, results[0].dtype)).all()


@pytest.mark.parametrize("n", [1, 8, 64, 333])
def test_epilogue_vectors_batches_and_windows(n: int) -> None:
    import cupy

    storage, on_gpu, y, y_gpu = problem(FLOAT16, True, lambda rng: integers(rng, 2), n)
    a, z = TVWMatrix.from_storage(on_gpu), exact(storage, y)[0]
    bias = np.arange(900) % 7
    e = Epilogue(alpha=0.5, bias=cupy.asarray(bias, dtype=np.float32), activation="relu")
    got = to_host(tvwarray.matmul(a.T, y_gpu, epilogue=e))
    np.testing.assert_array_equal(got, np.maximum(0.5 * z + bias[:, None], 0).astype(np.float16))
    batch = to_host(tvwarray.matmul(a.T, cupy.stack([y_gpu, -y_gpu])))
    np.testing.assert_array_equal(batch, np.stack([z, -z]).astype(np.float16))
    wide = cupy.full((900, 400), 7, np.float16)
    tvwarray.matmul(a.T, y_gpu, out=wide[:, 3 : 3 + n])
    np.testing.assert_array_equal(to_host(wide)[:, 3 : 3 + n], z.astype(np.float16))
    wide[:, 3 : 3 + n] = 7
    assert bool((wide == 7).all())
    np.testing.assert_array_equal(to_host(y_gpu.T @ a), z.T.astype(np.float16))


def test_the_current_stream_is_used_and_can_be_captured() -> None:
    import cupy

    storage, on_gpu, y, y_gpu = problem(FLOAT16, True, lambda rng: integers(rng, 2), 64)
    a, z = TVWMatrix.from_storage(on_gpu), exact(storage, y)[0].astype(np.float16)
    out = cupy.empty((900, 64), np.float16)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        tvwarray.matmul(a.T, y_gpu, out=out)
        stream.synchronize()
        out[...] = 0
        stream.begin_capture()
        tvwarray.matmul(a.T, y_gpu, out=out)
        graph = stream.end_capture()
        for _ in range(3):
            out[...] = 0
            graph.launch(stream)
            stream.synchronize()
            np.testing.assert_array_equal(to_host(out), z)


@pytest.mark.parametrize("dtype", [FLOAT16, FLOAT32], ids=str)
def test_gradients_of_torch_go_through_it(dtype: Any) -> None:
    """The gradient of ``x @ A.T`` with respect to x is ``dy @ A``, on the GPU."""
    torch = pytest.importorskip("torch")
    from tvwarray.torch import linear

    storage, on_gpu, y, y_gpu = problem(dtype, True, lambda rng: integers(rng, 2))
    a = TVWMatrix.from_storage(on_gpu)
    assert str(tvwarray.select_backend(a.T, y_gpu)) == "cuda: selected"
    x = torch.zeros(200, 900, dtype=getattr(torch, dtype.name), device="cuda", requires_grad=True)
    linear(x, a).backward(torch.asarray(np.ascontiguousarray(y.T)).cuda())
    np.testing.assert_array_equal(x.grad.cpu().numpy(), exact(storage, y)[0].T.astype(dtype))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(4096, 1000), (37, 1031), (130, 16)])
def test_transposed_copies(size: int, shape: tuple[int, int]) -> None:
    import cupy

    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (shape[0], shape[1] * size), dtype=np.uint8).view(f"u{size}")
    x = cupy.asarray(raw).T
    width = shape[0] + 3
    got = to_host(rows_of(CupyLauncher(), x, width))
    np.testing.assert_array_equal(got[:, : shape[0]], raw.T)
    assert not got[:, shape[0] :].any()
    out = cupy.zeros(shape[::-1], x.dtype, order="F")
    copy_to(CupyLauncher(), cupy.ascontiguousarray(x), out)
    np.testing.assert_array_equal(to_host(out), raw.T)
