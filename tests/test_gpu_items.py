"""On a GPU: persistent blocks of ``sm80_tvw_gemm``, each with several items, and columns of Y."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_problems import FLOAT16, exact
from test_gpu import architecture, ragged, to_gpu

from tvwarray import Epilogue
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
