"""Streams, CUDA graphs, and measured kernels that are kept: what only a GPU can show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    Product,
    draw_tiles,
    exact,
    integers,
    storage_of,
    uniform,
)
from test_gpu import ragged, to_gpu
from test_transposed import exact as transposed_exact

import tvwarray
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.launch import CupyLauncher, choose_config
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.workspace import pieces_of

pytestmark = pytest.mark.gpu


def problems() -> list[Product]:
    """Return products of each kernel: few columns, pieces of long tiles, Hopper's."""
    return [
        ragged(FLOAT16, True, 4),
        ragged(FLOAT16, False, 96),
        uniform(128, 8192, 128, tile_rows=128, keep=0.5, dtype=BFLOAT16, sparse=True),
        uniform(2048, 2048, 512, tile_rows=256, keep=0.5, dtype=BFLOAT16, sparse=True),
        unequal(),
    ]


def unequal() -> Product:
    """Return tiles of 1 to 48 steps, which are cut along their slots: by Hopper's kernel there."""
    rng = np.random.default_rng(0)
    slots = [16 * int(s) for s in np.linspace(4, 192, 8)]
    rows, tiles = draw_tiles(rng, [128] * 8, slots, 0, 2048)
    storage = storage_of((rows, 2048), tiles, FLOAT16, True, integers(rng), rng)
    return Product(storage, integers(rng)((2048, 512)).astype(FLOAT16))


def test_unequal_tiles_are_cut() -> None:
    """So that the tests below are of pieces, too; the model has the kernel of an H200."""
    packed = pack(to_gpu(unequal().storage))
    device = CupyLauncher().device(packed.values)
    config = choose_config(packed, 512, device).candidates[0].config
    if device.architecture == "90":
        assert isinstance(config, HopperConfig)
    columns = -(-512 // config.block_n)
    assert pieces_of(packed.tiles, config, columns, device.multiprocessors).counters > 0


@pytest.mark.parametrize("i", range(5))
def test_a_first_product_can_be_captured(i: int) -> None:
    """The matrix is packed beside the capture: the graph holds the product and nothing else."""
    import cupy

    product = problems()[i]
    expected = exact(product)[0].astype(product.x.dtype)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))
    x, out = cupy.asarray(product.x), cupy.zeros(expected.shape, product.x.dtype)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        tvwarray.matmul(A, x, out=out)
        graph = stream.end_capture()
        # Before the graph has ever run, what was kept for the matrix is whole.
        np.testing.assert_array_equal((A @ x).get(), expected)
        assert not out.get().astype(np.float32).any()
        for _ in range(3):
            graph.launch(stream)
        stream.synchronize()
    np.testing.assert_array_equal(out.get(), expected)
    np.testing.assert_array_equal((A @ x).get(), expected)


def test_a_first_transposed_product_can_be_captured() -> None:
    import cupy

    product = ragged(FLOAT16, True, 64)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))
    values = np.random.default_rng(0).integers(-3, 4, (A.shape[0], 64)).astype(np.float16)
    y, out = cupy.asarray(values), cupy.zeros((A.shape[1], 64), np.float16)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        tvwarray.matmul(A.T, y, out=out)
        graph = stream.end_capture()
        expected = (A.T @ y).get()
        graph.launch(stream)
        stream.synchronize()
    np.testing.assert_array_equal(out.get(), expected)
    np.testing.assert_array_equal(expected, transposed_exact(product.storage, values)[0])


@pytest.mark.parametrize("i", range(5))
def test_two_graphs_of_one_matrix(i: int) -> None:
    """Captured on one stream one after the other, run in the other order and on other streams."""
    import cupy

    product = problems()[i]
    expected = exact(product)[0].astype(product.x.dtype)
    packed, x = pack(to_gpu(product.storage)), cupy.asarray(product.x)
    outs = [cupy.zeros(expected.shape, product.x.dtype) for _ in range(2)]
    cupy.cuda.Device().synchronize()
    stream, graphs = cupy.cuda.Stream(non_blocking=True), []
    with stream:
        for out in outs:
            stream.begin_capture()
            multiply(CupyLauncher(), packed, x, out)
            graphs.append(stream.end_capture())
    other = cupy.cuda.Stream(non_blocking=True)
    for graph in reversed(graphs):
        graph.launch(other)
    other.synchronize()
    for out in outs:
        np.testing.assert_array_equal(out.get(), expected)


def test_copies_of_operands_stay_for_the_graph() -> None:
    """X that cannot be read in place is copied; a replay must find the copy's memory untouched."""
    import cupy

    product = ragged(FLOAT16, True, 69)
    expected = exact(product)[0].astype(np.float16)
    packed = pack(to_gpu(product.storage))
    x, out = cupy.asarray(product.x), cupy.zeros(expected.shape, np.float16, order="F")
    multiply(CupyLauncher(), packed, x, out)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        multiply(CupyLauncher(), packed, x, out)
        graph = stream.end_capture()
        out[...] = 0
        junk = [cupy.full(s, 77, np.float16) for s in 4 * [(700, 72), *2 * [expected.shape]]]
        graph.launch(stream)
        stream.synchronize()
    assert all((j == 77).all() for j in junk)
    np.testing.assert_array_equal(out.get(), expected)


@pytest.mark.parametrize("i", range(5))
def test_a_second_stream_finds_the_matrix_packed(i: int) -> None:
    """The first product's stream is busy for long; the second product does not run ahead of it."""
    import cupy

    product = problems()[i]
    expected = exact(product)[0].astype(product.x.dtype)
    storage, x = to_gpu(product.storage), cupy.asarray(product.x)
    slow = cupy.ones((4096, 4096), np.float32)
    slow @ slow  # cuBLAS is loaded
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(4)]
    A, outs = tvwarray.TVWMatrix.from_storage(storage), []
    with streams[0]:
        for _ in range(10):
            slow @ slow
        outs.append(A @ x)
    for stream in streams[1:]:
        with stream:
            outs.append(A @ x)
    cupy.cuda.Device().synchronize()
    for out in outs:
        np.testing.assert_array_equal(out.get(), expected)


def test_streams_of_torch_and_its_graphs() -> None:
    """A product runs on torch's current stream, and its graphs hold it; nothing is copied."""
    torch = pytest.importorskip("torch")
    import cupy

    product = uniform(512, 512, 128, tile_rows=128, keep=0.5, dtype=FLOAT16, sparse=True)
    expected = exact(product)[0].astype(np.float16)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))
    x = torch.from_dlpack(cupy.asarray(product.x))
    y = A @ x
    np.testing.assert_array_equal(y.cpu().numpy(), expected)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        delayed = torch.zeros_like(x)
        torch.cuda._sleep(20_000_000)
        delayed += x
        y = A @ delayed  # too early on any other stream
    side.synchronize()
    np.testing.assert_array_equal(y.cpu().numpy(), expected)
    graph = torch.cuda.CUDAGraph()
    given = x.clone()
    with torch.cuda.graph(graph):
        y = A @ given
    given.mul_(2)
    graph.replay()
    torch.cuda.synchronize()
    np.testing.assert_array_equal(y.cpu().numpy(), (2 * exact(product)[0]).astype(np.float16))


def test_autotune_measures_keeps_and_uses(tmp_path, monkeypatch) -> None:
    import cupy

    monkeypatch.setenv("TVWARRAY_CACHE_DIR", str(tmp_path))
    product = uniform(1024, 1024, 256, tile_rows=128, keep=0.5, dtype=FLOAT16, sparse=True)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))
    x = cupy.asarray(product.x)
    before = A @ x
    choice = tvwarray.autotune(A, 256, candidates=3, repeats=5)
    measured = [c.measured for c in choice.candidates if c.measured is not None]
    assert len(measured) >= 3
    assert choice.candidates[0].measured == min(measured)
    assert (tmp_path / "tuned-1.json").is_file()
    np.testing.assert_array_equal((A @ x).get(), before.get())
    again = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))  # as another process would
    assert str(choice.config) in str(tvwarray.plan(again, 256))


def test_a_first_product_in_a_graph_of_torch() -> None:
    """Whose captures forbid allocating and waiting to the whole thread."""
    torch = pytest.importorskip("torch")
    import cupy

    from tvwarray.torch import to_tensor

    for product in problems():
        expected = exact(product)[0].astype(product.x.dtype)
        A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))
        x = to_tensor(cupy.asarray(product.x))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = A @ x
        graph.replay()
        torch.cuda.synchronize()
        np.testing.assert_array_equal(y.float().cpu().numpy(), expected.astype(np.float32))


def test_results_inside_a_graph_of_torch_live_as_long_as_it() -> None:
    """A chain of products whose intermediate results nobody holds; replayed among other work."""
    torch = pytest.importorskip("torch")
    import cupy

    product = uniform(512, 512, 128, tile_rows=128, keep=0.5, dtype=FLOAT16, sparse=True)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage)) * np.float16(1 / 64)
    x = torch.from_dlpack(cupy.asarray(product.x))
    expected = A @ (A @ (A @ x))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = A @ (A @ (A @ x))
    for _ in range(3):
        junk = [A @ torch.randn_like(x) for _ in range(8)]
        graph.replay()
        torch.testing.assert_close(y, expected, rtol=0, atol=0)
        del junk


def test_a_product_never_overwrites_the_tensor_it_reads() -> None:
    """X and `out` are parts of one tensor that overlap: known by their storage."""
    torch = pytest.importorskip("torch")
    import cupy

    product = uniform(256, 256, 64, tile_rows=64, keep=0.5, dtype=FLOAT16, sparse=True)
    expected = exact(product)[0].astype(np.float16)
    A = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage))
    for shift in (0, 1, 128, 256):
        whole = torch.zeros(512, 64, dtype=torch.float16, device="cuda")
        x, out = whole[:256], whole[shift : shift + 256]
        for _ in range(2):  # planned, and started again
            x[...] = torch.from_dlpack(cupy.asarray(product.x))
            with torch.no_grad():
                tvwarray.matmul(A, x, out=out)
            np.testing.assert_array_equal(out.cpu().numpy(), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float8_e4m3fn", "int8"])
def test_tensors_of_any_strides_are_shared(dtype: str) -> None:
    """By their address on torch's stream, by DLPack elsewhere: the same array either way."""
    torch = pytest.importorskip("torch")
    import cupy

    from tvwarray.torch import to_array, to_tensor

    base = torch.arange(-60, 60, device="cuda").reshape(2, 3, 20).to(getattr(torch, dtype))
    views = (base, base[1], base.mT, base[:, 1:, ::3], base[..., 5], base[:0], base[0, :, :1])
    for view in (*views, base[0, 0].expand(4, 20)):
        here = to_array(view)
        with cupy.cuda.Stream(non_blocking=True):
            there = to_array(view)
        assert here.dtype == there.dtype
        assert here.shape == tuple(view.shape)
        assert view.numel() == 0 or here.data.ptr == view.data_ptr() == there.data.ptr
        for array in (here, there):
            assert torch.equal(to_tensor(array).float(), view.float())


def test_a_remainder_is_added_on_the_current_stream_and_in_no_graph() -> None:
    """By cuSPARSE; nothing waits for the device, and its workspace would outlive no graph."""
    import cupy
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    W = tvwarray.sparsify(rng.integers(-3, 4, (256, 512)).astype(np.float32), 0.75)
    extra = sp.random_array((256, 512), density=0.02, rng=rng, dtype=np.float32)
    extra.data[:] = rng.integers(-3, 4, extra.nnz)
    A = W.with_remainder(sp.csr_array(extra)).astype(np.float16)
    X = rng.integers(-2, 3, (512, 24)).astype(np.float16)
    expected = A.toarray().astype(np.float64) @ X.astype(np.float64)
    there, x = A.to_device(cupy.zeros(1)), cupy.asarray(X)
    assert there.storage.remainder is not None
    np.testing.assert_array_equal((there @ x).get(), expected.astype(np.float16))
    cupy.cuda.Device().synchronize()
    stream, gate = cupy.cuda.Stream(non_blocking=True), cupy.zeros(1 << 28, np.uint8)
    with stream:
        late = cupy.zeros((512, 24), np.float16)
        for _ in range(20):
            gate.fill(1)  # milliseconds, behind which X gets its values
        late[...] = x
        got = there @ late
        done = cupy.cuda.Event()
        done.record()
        assert not done.done, "the product has waited for the device"
        back = there.T @ got
    stream.synchronize()
    np.testing.assert_array_equal(got.get(), expected.astype(np.float16))
    assert back.shape == (512, 24)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(tvwarray.BackendError, match="cannot be captured"):
                there @ late
        finally:
            stream.end_capture()


def allocations() -> Any:
    """Return a hook that counts what CuPy allocates."""
    from cupy.cuda import MemoryHook

    class Count(MemoryHook):
        name = "count"
        found = 0

        def malloc_preprocess(self, **_: Any) -> None:
            self.found += 1

    return Count()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("i", range(7))
def test_a_workspace_is_all_that_a_product_takes(i: int, order: str) -> None:
    """As large as the plan says, whatever it held; in a graph, and on two streams at a time."""
    import cupy

    more = [ragged(FLOAT16, True, n) for n in (1, 40)]
    product = [*problems(), *more][i]
    expected = exact(product)[0].astype(product.x.dtype)
    A, n = tvwarray.TVWMatrix.from_storage(to_gpu(product.storage)), product.x.shape[1]
    x = cupy.asarray(product.x, order=order)
    A @ x  # packed
    size = tvwarray.plan(A, n, order=order).workspace_bytes
    assert size is not None
    memory = [cupy.full(max(size, 1), 255, np.uint8) for _ in range(2)]
    outs = [cupy.zeros(expected.shape, x.dtype, order=order) for _ in range(2)]
    for _ in range(2):  # kernels are loaded
        tvwarray.matmul(A, x, out=outs[0], workspace=memory[0])
    outs[0][...] = 0
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    with allocations() as counted:
        for _ in range(20):
            for stream, out, given in zip(streams, outs, memory, strict=True):
                with stream:
                    tvwarray.matmul(A, x, out=out, workspace=given)
    assert counted.found == 0
    for stream, out in zip(streams, outs, strict=True):
        stream.synchronize()
        np.testing.assert_array_equal(out.get(), expected)
        out[...] = 0
    cupy.cuda.Device().synchronize()
    with streams[0]:
        streams[0].begin_capture()
        tvwarray.matmul(A, x, out=outs[0], workspace=memory[0])
        graph = streams[0].end_capture()
    memory[0].fill(255)
    cupy.cuda.Device().synchronize()
    for _ in range(3):
        graph.launch(streams[1])
    streams[1].synchronize()
    np.testing.assert_array_equal(outs[0].get(), expected)
