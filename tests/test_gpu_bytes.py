"""What only a GPU can show of 8-bit products on Hopper: instructions, kernels, sums of 14 bits."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from epilogue_problems import near
from kernel_problems import exact, integers, normals
from test_gpu import array_to_gpu, on_hardware, to_gpu
from test_hopper_bytes import CASES, E4M3, SHIPPED, float8_bound, ragged
from test_ptx_wgmma import BEGIN, COMMIT, WAIT
from test_ptx_wgmma_bytes import CASES as INSTRUCTIONS
from test_ptx_wgmma_bytes import ByteProblem, all_bit_patterns, recorded

from tvwarray import Epilogue
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

pytestmark = pytest.mark.gpu


@cache
def is_hopper() -> bool:
    import cupy

    return str(cupy.cuda.Device().compute_capability) == "90"


def run(dtype: Any, i: int, product: Any, epilogue: Epilogue | None = None) -> Any:
    if not is_hopper():
        pytest.skip("wgmma is on compute capability 9.0 alone")
    packed = pack(to_gpu(product.storage))
    e, x = epilogue or Epilogue(), array_to_gpu(product.x)
    return multiply(CupyLauncher(), packed, x, config=SHIPPED[dtype][i], epilogue=e).get()


@pytest.mark.parametrize(("kind", "other", "n"), INSTRUCTIONS)
def test_one_instruction_agrees_with_the_interpreter(kind: str, other: str, n: int) -> None:
    """float8 and int8: both operands K-major, metadata of all lanes."""
    problem = ByteProblem(n, kind, other)
    np.testing.assert_array_equal(on_hardware(problem, problem.body), problem.run(problem.body))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_all_eight_bit_floats_are_those_of_the_interpreter(kind: str, part: int) -> None:
    problem = all_bit_patterns(kind, part)
    np.testing.assert_array_equal(on_hardware(problem, problem.body), problem.run(problem.body))


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_sums_of_float8_keep_the_same_bits(kind: str) -> None:
    """Sixteen products one onto the other, of one sign."""
    problem, _ = recorded(kind, "normals")
    problem.values = abs(problem.values)
    problem.x = abs(problem.x)
    problem.build()
    many = " ".join(problem.product(i % 2, int(i > 0)) for i in range(16))
    body = f"{BEGIN} {many} {COMMIT} {WAIT}"
    np.testing.assert_array_equal(on_hardware(problem, body), problem.run(body))


@pytest.mark.parametrize("n", [141, 400])
@pytest.mark.parametrize(("dtype", "i"), CASES)
def test_every_config_is_exact(dtype: Any, i: int, n: int) -> None:
    product = ragged(dtype, n)
    np.testing.assert_array_equal(run(dtype, i, product), exact(product)[0])


@pytest.mark.parametrize("output", ["float32", "bfloat16"])
@pytest.mark.parametrize(("dtype", "i"), CASES)
def test_fused_results(dtype: Any, i: int, output: str) -> None:
    """Row and column scales, a bias and a function."""
    product = ragged(dtype, 72, lambda g: integers(g, 2))
    rows = np.float32(2.0) ** np.arange(-3, product.storage.shape[0] - 3).clip(max=2)
    import cupy

    kind = np.dtype(getattr(ml_dtypes, output, output))
    host = Epilogue(row_scale=rows, bias=rows, activation="silu", out_dtype=kind)
    moved = cupy.asarray(rows.astype(np.float32))
    e = Epilogue(row_scale=moved, bias=moved, activation="silu", out_dtype=kind)
    near(run(dtype, i, product, e), product, host)


@pytest.mark.parametrize("i", range(len(SHIPPED[E4M3])))
def test_sums_are_bounded(i: int) -> None:
    """Of one sign, which is the worst: what is cut off adds up."""
    product = ragged(E4M3, 64, lambda g: lambda shape: abs(normals(g)(shape)))
    got, (y, size, _) = run(E4M3, i, product), exact(product)
    error = abs(got - y)
    assert (error <= float8_bound(product, SHIPPED[E4M3][i])).all()
    worst = (error / np.maximum(size, 1e-30)).max()
    print(f"\n{SHIPPED[E4M3][i]}: largest error over |A| |X| 2**{np.log2(worst):.1f}")
