"""``A.T @ Y`` on a GPU: what `test_transposed` executes in the interpreter, on hardware."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_problems import BFLOAT16, FLOAT16, draw_tiles, integers, normals, rounding, storage_of
from test_gpu import ACCUMULATION, architecture, to_gpu
from test_transposed import exact, ragged

import tvwarray
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.transposed.config import transposed_configs
from tvwarray._kernels.transposed.pack import pack_transposed
from tvwarray._kernels.transposed.product import multiply_transposed

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("sparse", [True, False], ids=["2:4", "all"])
def test_every_config_is_exact(dtype: Any, sparse: bool) -> None:
    """Ragged in all ways, in both memory orders; nothing beside a window of `out` changes."""
    import cupy

    for config in transposed_configs(architecture(), dtype.name):
        for n in (1, 7, 64, 200):
            storage, y = ragged(dtype, n, sparse)
            expected = exact(storage, y)[0].astype(dtype)
            packed = pack_transposed(to_gpu(storage), form_of(dtype), config.block_columns)
            for order in "CF":
                there = cupy.asarray(y, order=order)
                got = multiply_transposed(CupyLauncher(), packed, there, config=config)
                np.testing.assert_array_equal(got.get(), expected, err_msg=str(config))
            wide = cupy.full((expected.shape[0], n + 9), 7, dtype)
            window = wide[:, 3 : 3 + n]
            multiply_transposed(CupyLauncher(), packed, cupy.asarray(y), window, config)
            np.testing.assert_array_equal(window.get(), expected)
            assert (wide[:, :3] == 7).all()
            assert (wide[:, 3 + n :] == 7).all()


def test_pieces_are_the_same_each_time() -> None:
    """Rows that many tiles keep are shared out to many blocks, whose sums are added in order."""
    import cupy

    rng = np.random.default_rng(0)
    rows, tiles = draw_tiles(rng, [256] * 24, [128] * 24, 5, 128)
    storage = storage_of((rows, 128), tiles, BFLOAT16, True, normals(rng), rng)
    y = normals(rng)((rows, 136)).astype(BFLOAT16)
    z, size, terms = exact(storage, y)
    bound = ACCUMULATION * terms[:, None] * 2.0**-24 * size
    for config in transposed_configs(architecture(), BFLOAT16.name):
        packed = pack_transposed(to_gpu(storage), form_of(BFLOAT16), config.block_columns)
        first, *others = (
            multiply_transposed(CupyLauncher(), packed, cupy.asarray(y), config=config).get()
            for _ in range(4)
        )
        error = abs(first.astype(float) - z)
        assert (error <= bound + rounding(abs(z) + bound, BFLOAT16)).all()
        for other in others:
            np.testing.assert_array_equal(first.view(np.uint16), other.view(np.uint16))


def test_the_operator_and_a_captured_graph() -> None:
    """``A.T @ Y`` and ``Y @ A`` come here, the first product inside a graph too."""
    import cupy

    storage, y = ragged(FLOAT16, 64)
    expected = exact(storage, y)[0].astype(FLOAT16)
    A, there = tvwarray.TVWMatrix.from_storage(to_gpu(storage)), cupy.asarray(y)
    selection = tvwarray.select_backend(A.T, there)
    assert selection.backend is not None
    assert selection.backend.name == "cuda", str(selection)
    cupy.cuda.Device().synchronize()
    stream, out = cupy.cuda.Stream(non_blocking=True), cupy.zeros(expected.shape, FLOAT16)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        tvwarray.matmul(A.T, there, out=out)
        graph = stream.end_capture()
        np.testing.assert_array_equal((A.T @ there).get(), expected)
        graph.launch(stream)
        stream.synchronize()
    np.testing.assert_array_equal(out.get(), expected)
    np.testing.assert_array_equal((there.T @ A).get(), expected.T)


def test_a_batch_at_once() -> None:
    import cupy

    rng = np.random.default_rng(0)
    storage, _ = ragged(FLOAT16)
    batch = integers(rng)((3, storage.shape[0], 72)).astype(FLOAT16)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(storage))
    got = (A.T @ cupy.asarray(batch)).get()
    for i in range(3):
        np.testing.assert_array_equal(got[i], exact(storage, batch[i])[0].astype(FLOAT16))
