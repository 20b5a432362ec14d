"""Dask: products chunk by chunk, matrices in blocks, workers lost in the middle."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

dask = pytest.importorskip("dask", reason="Dask is not installed")
pytest.importorskip("distributed", reason="dask.distributed is not installed")

import array_api_strict as strict  # noqa: E402
import dask.array as da  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from dask.sizeof import sizeof  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from oracle import dense as oracle_dense  # noqa: E402
from strategies import seeds, storages  # noqa: E402

import tvwarray  # noqa: E402
import tvwarray.dask as tvd  # noqa: E402
from tvwarray import TVWMatrix  # noqa: E402
from tvwarray._partition import row_blocks, stack_rows  # noqa: E402
from tvwarray.dask import _workers  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    # Asyncio and sockets of a cluster that is closing; nothing of it is ours.
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:Port 8787:UserWarning",
)


def whole_numbers(shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def integer_matrix(rows, cols, dtype=np.float64, seed=0):
    """Return a pruned matrix of integers: products are exact in any order."""
    return tvwarray.sparsify(whole_numbers((rows, cols), dtype, seed) * 2 + 1, 0.75)


@pytest.fixture
def local():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def cluster():
    settings = {
        "distributed.worker.memory.terminate": 0.98,
        "distributed.comm.timeouts.connect": "30s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="400MB", dashboard_address=None
        ) as made,
        Client(made) as client,
    ):
        yield client


@settings(max_examples=30)
@given(storages(dtypes=["int32"]), st.integers(1, 6))
def test_blocks_of_rows_are_the_matrix_in_order(storage, k):
    blocks = row_blocks(storage, k)
    assert len(blocks) == k
    for block in blocks:
        block.check()
    stacked = stack_rows(blocks)
    stacked.check()
    np.testing.assert_array_equal(oracle_dense(stacked), oracle_dense(storage))


def test_blocks_of_rows_share_the_work():
    A = integer_matrix(1024, 256)
    work = [block.data.size for block in row_blocks(A.storage, 4)]
    assert max(work) <= 1.1 * sum(work) / 4


@settings(max_examples=4)
@given(storages(dtypes=["int32"], max_side=40), st.integers(1, 4), st.integers(1, 7), seeds)
def test_cpu_product_is_a_dask_array(storage, parts, chunk, seed):
    """A @ x and linear, chunked any way, A whole or in parts."""
    A = TVWMatrix.from_storage(storage)
    X = np.random.default_rng(seed).integers(-4, 5, (A.shape[1], 9)).astype(np.int32)
    x = da.from_array(X, chunks=(max(1, A.shape[1] // 2), chunk))
    expected = oracle_dense(storage).astype(np.int64) @ X
    with dask.config.set(scheduler="synchronous"):
        y = tvd.matmul(A, x, parts=parts)
        assert isinstance(y, da.Array)
        assert y.dtype == np.int32
        assert y.chunks[1] == x.chunks[1]
        np.testing.assert_array_equal(y.compute(), expected)
        np.testing.assert_array_equal(tvwarray.linear(x.T, A).compute(), expected.T)
        np.testing.assert_array_equal((A @ x[:, 0]).compute(), expected[:, 0])
        np.testing.assert_array_equal(tvd.linear(x[:, 0], A).compute(), expected[:, 0])


def test_bf16_chunks_give_bf16(local):
    import ml_dtypes

    A = integer_matrix(32, 32, np.float32).astype(ml_dtypes.bfloat16)
    x = da.ones((32, 6), chunks=(32, 2), dtype=np.float32).astype(ml_dtypes.bfloat16)
    y = (A @ x).compute()
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y, A @ x.compute())


def test_linear_adds_and_activates_in_each_chunk(local):
    A = integer_matrix(24, 32)
    x = da.from_array(whole_numbers((10, 32)), chunks=(4, 16))
    bias, residual = np.arange(24.0), np.ones((10, 24))
    y = tvwarray.linear(x, A, bias, "relu", residual=residual)
    expected = np.maximum(x.compute() @ A.toarray().T + bias, 0) + residual
    np.testing.assert_array_equal(y.compute(), expected)


def test_matrices_in_blocks_go_there_and_back(local):
    A = integer_matrix(100, 48)
    blocks = A.to_dask(3)
    assert repr(blocks) == "<RowBlocks 100x48 float64: 3 blocks of rows>"
    X = whole_numbers((48, 5))
    np.testing.assert_array_equal((blocks @ X).compute(), A.toarray() @ X)
    np.testing.assert_array_equal((blocks.persist() @ X[:, 0]).compute(), A.toarray() @ X[:, 0])
    np.testing.assert_array_equal(blocks.to_array().compute(), A.toarray())
    back = blocks.compute()
    back.storage.check()
    np.testing.assert_array_equal(back.toarray(), A.toarray())


@pytest.mark.parametrize("sparse", [False, True])
def test_a_dask_array_becomes_a_matrix_by_chunks(local, sparse):
    W = integer_matrix(60, 32).toarray()
    x = da.from_array(W, chunks=(25, 16))
    if sparse:
        x = x.rechunk((25, 32)).map_blocks(sp.csr_array)
    blocks = tvd.from_dask(x)
    assert blocks.heights == (25, 25, 10)
    np.testing.assert_array_equal(blocks.compute().toarray(), W)
    np.testing.assert_array_equal((blocks @ np.eye(32)).compute(), W)
    pruned = tvd.from_dask(da.from_array(W), convert=lambda w: tvwarray.sparsify(w, 0.875))
    assert pruned.compute().density <= 0.13


def test_chunks_on_a_device_bring_the_matrix_there_once():
    """array-api-strict stands for CuPy here: arrays that NumPy's cannot be mixed with."""
    A = integer_matrix(32, 32)
    x = strict.asarray(whole_numbers((32, 3)))
    y = _workers.multiply(A, x)
    assert type(y) is type(x)
    np.testing.assert_array_equal(np.asarray(y), A.toarray() @ np.asarray(x))
    assert _workers.beside(A, x).storage is _workers.beside(A, x).storage
    back = _workers.beside(_workers.beside(A, x), np.ones(1))
    np.testing.assert_array_equal(back.toarray(), A.toarray())
    np.testing.assert_array_equal(
        np.asarray(_workers.multiply(A.T, x)), A.toarray().T @ np.asarray(x)
    )


def test_what_cannot_be_multiplied_says_why(local):
    A = TVWMatrix(np.eye(16))
    x = da.ones((16, 4), chunks=2)
    with pytest.raises(ValueError, match="X must have 16 rows"):
        A @ da.ones((3, 2))
    with pytest.raises(ValueError, match="X must have 16 rows"):
        A.to_dask(2) @ da.ones((3, 2))
    with pytest.raises(ValueError, match="reshape what has more axes"):
        tvwarray.linear(da.ones((2, 3, 16)), A)
    with pytest.raises(ValueError, match="out cannot be given"):
        tvwarray.matmul(A, x, out=np.ones((16, 4)))
    with pytest.raises(ValueError, match="precision is 'tf32'"):
        tvwarray.matmul(A, x, precision="tf32")
    with pytest.raises(ValueError, match="precision is 'tf32'"):
        tvwarray.linear(x.T, A, precision="tf32")
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        A @ x[:, x[0] > 0]
    with pytest.raises(ValueError, match="A is transposed"):
        A.T.to_dask(2)
    with pytest.raises(ValueError, match="k is 0"):
        A.to_dask(0)
    with pytest.raises(ValueError, match="a matrix has 2"):
        tvd.from_dask(da.ones(3))
    with pytest.raises(TypeError, match=r"x\.compute\(\) brings it here"):
        TVWMatrix(x)


def test_workers_know_how_large_a_matrix_is():
    A = integer_matrix(64, 64)
    assert sizeof(A) == A.nbytes


# On a cluster of two processes


def test_a_cluster_multiplies_whole_and_in_parts(cluster):
    A = integer_matrix(512, 256)
    X = whole_numbers((256, 40))
    expected = A.toarray() @ X
    x = da.from_array(X, chunks=(256, 10))
    np.testing.assert_array_equal((A @ x).compute(), expected)
    np.testing.assert_array_equal(tvd.matmul(A, x, parts=3).compute(), expected)
    np.testing.assert_array_equal((A.to_dask(4) @ x).compute(), expected)
    np.testing.assert_array_equal(tvwarray.linear(x.T, A).compute(), expected.T)
    assert len(cluster.scheduler_info()["workers"]) == 2


def test_a_product_larger_than_the_workers_memory_is_computed(cluster):
    """1.2 GB of product, 0.6 GB of operand; the workers have 0.8 GB, their programs included.

    Checked by column sums, which are exact: (1.T A) X = 1.T (A X).
    """
    rows, cols, n, chunk = 4096, 2048, 73_728, 2048
    A = tvwarray.sparsify(whole_numbers((rows, cols), np.float32), 0.95)
    assert rows * n * 4 > 2 * 400e6

    def operand(block_info=None):
        start = block_info[None]["array-location"][1][0]
        rng = np.random.default_rng(start)
        return rng.integers(-2, 3, (cols, chunk)).astype(np.float32)

    widths = (chunk,) * (n // chunk)
    x = da.map_blocks(
        operand, chunks=((cols,), widths), dtype=np.float32, meta=np.empty((0, 0), "f4")
    )
    sums = (A @ x).sum(axis=0, dtype=np.float64).compute()
    row = A.toarray().sum(axis=0, dtype=np.float64)
    for i in (0, 7, len(widths) - 1):
        block = np.random.default_rng(i * chunk).integers(-2, 3, (cols, chunk))
        np.testing.assert_array_equal(sums[i * chunk : (i + 1) * chunk], row @ block)


@pytest.mark.parametrize("way", ["whole", "parts", "blocks"])
def test_killing_a_worker_in_the_middle_changes_nothing(way):
    """A third of the product is there when one of two processes is ended by SIGKILL."""
    A = integer_matrix(512, 256)
    X = whole_numbers((256, 120))

    def slow(block):
        time.sleep(0.1)
        return block

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
        Client(made) as client,
    ):
        x = da.from_array(X, chunks=(256, 10)).map_blocks(slow)
        y = {
            "whole": lambda: A @ x,
            "parts": lambda: tvd.matmul(A, x, parts=2),
            "blocks": lambda: A.to_dask(2) @ x,
        }[way]()
        future = client.compute(y)
        pids = list(client.run(os.getpid).values())
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            tasks = client.run_on_scheduler(
                lambda dask_scheduler: sum(
                    t.state in ("memory", "released") and "multiply" in str(t.key)
                    for t in dask_scheduler.tasks.values()
                )
            )
            if tasks >= 4:
                break
            time.sleep(0.02)
        assert not future.done()
        os.kill(pids[0], signal.SIGKILL)
        np.testing.assert_array_equal(future.result(timeout=60), A.toarray() @ X)
