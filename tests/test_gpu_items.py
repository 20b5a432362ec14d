"""On a GPU: blocks with several items, columns of Y, and how many blocks the device holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_problems import FLOAT16, exact
from test_gpu import architecture, ragged, shipped, to_gpu

from tvwarray import Epilogue
from tvwarray._kernels.compile import (
    CACHE_VARIABLE,
    CompiledKernel,
    compile_kernel,
    registers_of,
)
from tvwarray._kernels.config import KernelConfig
from tvwarray._kernels.devices import Device
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs, one_item_reason

pytestmark = pytest.mark.gpu


class OneMultiprocessor(CupyLauncher):
    """Starts as many persistent blocks as one multiprocessor holds."""

    def device(self, like: Any) -> Device:
        return replace(super().device(like), multiprocessors=1)


def variants_of(config: KernelConfig) -> list[KernelConfig]:
    """Return a config with persistent blocks, in rows and in columns, and columns alone."""
    made = [replace(config, column_major=True)]
    if not one_item_reason(config):
        made += [replace(c, persistent=True) for c in (config, *made)]
    return made


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("i", range(11))
@pytest.mark.parametrize("name", ["float16", "float32"])
def test_items_one_after_another_and_columns(sparse: bool, i: int, name: str) -> None:
    """Exact on integers with every shape, rows of Y anywhere; float32 with a bias."""
    import cupy

    found = configs(architecture(), FLOAT16, sparse)
    if i >= len(found):
        pytest.skip(f"sm_{architecture()} has {len(found)} kernels for this pattern")
    product, dtype = ragged(FLOAT16, sparse, 513), np.dtype(name)
    rows, packed = product.storage.shape[0], pack(to_gpu(product.storage))
    y, x, step = exact(product)[0], cupy.asarray(product.x), Epilogue(out_dtype=dtype)
    if name == "float32":
        bias = np.arange(rows, dtype=np.float32)
        y, step = y + bias[:, None], replace(step, bias=cupy.asarray(bias))
    for config in variants_of(found[i]):
        out = cupy.empty((rows, 513), dtype, order="F" if config.column_major else "C")
        multiply(OneMultiprocessor(), packed, x, out, config, step)
        np.testing.assert_array_equal(out.get(), y.astype(dtype))


def loaded(kernel: CompiledKernel) -> Any:
    """Return a kernel on the device, with the shared memory that it is started with."""
    function = kernel.module().get_function(kernel.name)
    function.max_dynamic_shared_size_bytes = kernel.config.shared_bytes
    return function


@pytest.mark.parametrize("sparse", [True, False])
def test_registers_and_blocks_at_once_are_those_of_the_driver(sparse: bool) -> None:
    """What is read from cubins, and what follows from it."""
    import cupy
    from cupy.cuda import driver

    device = CupyLauncher().device(cupy.empty(1))
    for config in shipped(architecture(), FLOAT16, sparse):
        kernel = compile_kernel(config, architecture())
        function, threads = loaded(kernel), config.threads
        assert registers_of(kernel.cubin_path.read_bytes()) == function.num_regs, config
        fit = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            function.kernel.ptr, threads, config.shared_bytes
        )
        assert kernel.resident_blocks(device.shared_per_multiprocessor) == fit, config


def test_a_product_of_what_the_compiler_had_in_its_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVRTC then reports nothing of the assembler's: how many blocks to start is known all the
    same.
    """
    import cupy

    found = configs(architecture(), FLOAT16, True)
    config = next(c for c in found if not one_item_reason(c))
    config = replace(config, persistent=True, output="float16")
    product = ragged(FLOAT16, True, 513)
    packed, x = pack(to_gpu(product.storage)), cupy.asarray(product.x)
    for folder in ("first", "second"):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / folder))
        monkeypatch.setattr("tvwarray._kernels.product._compiled", compile_kernel)
        kernel = compile_kernel(config, architecture())
        assert registers_of(kernel.cubin_path.read_bytes()) == loaded(kernel).num_regs
        got = multiply(OneMultiprocessor(), packed, x, config=config).get()
        np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))
