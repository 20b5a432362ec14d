"""The product ``A.T @ Y``: operands brought into place, and the launch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from tvwarray._dtypes import product_dtype
from tvwarray._epilogue import IDENTITY, Epilogue
from tvwarray._kernels.arguments import (
    OUTPUTS,
    batch_stride,
    epilogue_arguments,
    fused_or_finished,
    operand_of,
)
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.devices import Device
from tvwarray._kernels.launch import Launcher, Result
from tvwarray._kernels.repeat import Launch, overlap, place_of, scratch
from tvwarray._kernels.streams import settled
from tvwarray._kernels.transposed.balance import piece_counts, work_list
from tvwarray._kernels.transposed.config import TransposedConfig
from tvwarray._kernels.transposed.cost import TransposedChoice, choose_transposed
from tvwarray._kernels.transposed.pack import TransposedMatrix
from tvwarray._namespace import Array, array_namespace, device_of, dtype_of, from_host

_compiled: Final = cache(compile_kernel)


def multiply_transposed(
    launcher: Launcher,
    packed: TransposedMatrix,
    y: Array,
    out: Array | None = None,
    config: TransposedConfig | None = None,
    epilogue: Epilogue = IDENTITY,
) -> Array:
    """Return `epilogue` of ``A.T @ y``, by one launch.

    Parameters
    ----------
    launcher : Launcher
    packed : TransposedMatrix
        A, of shape (rows, cols), on the device of `y`.
    y : array, shape (rows, n) or (batch, rows, n), of A's dtype
        Read where it lies if its rows are contiguous, begin at multiples of 16 bytes, and are as
        long as that; otherwise copied first, which costs one more pass over it.
    out : array, shape (cols, n) or (batch, cols, n), optional
        Of any strides; written where it lies. By default in the memory order of `y`.
    config : TransposedConfig, optional
        The config to run, instead of the one that ranks first. What it stores follows from the
        epilogue.
    epilogue : Epilogue
        Checked. Fused unless it has a function for an activation.

    Raises
    ------
    BackendError
        If the kernel does not compile.
    """
    with launcher.using(y):
        key = None
        apart = out is None or not overlap(y, out)
        if config is None and epilogue is IDENTITY and y.ndim == 2 and apart:
            key = (launcher.stream(y), *place_of(launcher, y), *place_of(launcher, out))
            if (prepared := packed.memo.get(key)) is not None:
                return prepared.start(y, out)

        def run(into: Array | None, fused: Epilogue) -> Array:
            return _run(
                launcher, packed, y, into, config, fused, key if fused is epilogue else None
            )

        return fused_or_finished(run, epilogue, product_dtype(packed.dtype, dtype_of(y)), out)


def _run(
    launcher: Launcher,
    packed: TransposedMatrix,
    y: Array,
    out: Array | None,
    config: TransposedConfig | None,
    epilogue: Epilogue,
    key: Hashable | None,
) -> Array:
    """Run the product by one launch, and remember it by `key` if it may be started again."""
    dtype = epilogue.result_dtype(product_dtype(packed.dtype, dtype_of(y)))
    (rows, cols), n = packed.shape, int(y.shape[-1])
    xp = array_namespace(packed.values)
    if out is None:
        out = _empty(y, cols, dtype)
    if 0 in out.shape:
        return out
    device = launcher.device(y)
    config = config or choice_for(packed, n, device).candidates[0].config
    config = replace(
        config, output=OUTPUTS[dtype], fused=not epilogue.is_cast,
        activation=epilogue.activation_name or "none",
    )  # fmt: skip
    z = out if not overlap(y, out) else xp.empty(out.shape, dtype=dtype, device=device_of(y))
    operand = operand_of(launcher, packed.form, y)
    batch = 1 if y.ndim == 2 else int(y.shape[0])
    n_blocks = -(-n // config.block_n)
    columns = n_blocks * batch
    strip_bytes = dtype_of(y).itemsize * max(rows, 1) * config.block_n
    strip = min(columns, max(1, device.l2_bytes // 3 // strip_bytes))
    work, pieces = _work(packed, columns, config, device)
    partials = arrived = None
    if pieces:
        sums = pieces * columns * config.block_columns * config.block_n
        partials = scratch(launcher, packed, y, np.float32, sums)
        arrived = scratch(launcher, packed, y, np.uint32, pieces * columns)
    strides = [np.int64(s // dtype.itemsize) for s in z.strides[-2:]]
    args = (
        operand.array, operand.pitch, np.int64(operand.batch),
        Result(z), *strides, np.int64(batch_stride(z)),
        packed.values, packed.headers, packed.places,
        work, int(work.shape[0]), cols, n, n_blocks, columns, strip, partials, arrived,
        *epilogue_arguments(xp, epilogue, dtype, z),
    )  # fmt: skip
    launch = Launch(_compiled(config, device.architecture), int(work.shape[0]) * columns, args)
    return launch.first(launcher, packed, operand.array, z, y, out, key)


def _empty(y: Array, cols: int, dtype: np.dtype) -> Array:
    """Return a result in the memory order of `y`."""
    xp = array_namespace(y)
    columns_first = y.ndim == 2 and y.flags.f_contiguous and not y.flags.c_contiguous
    if columns_first:
        return xp.empty((int(y.shape[-1]), cols), dtype=dtype, device=device_of(y)).T
    shape = (*y.shape[:-2], cols, int(y.shape[-1]))
    return xp.empty(shape, dtype=dtype, device=device_of(y))


def choice_for(packed: TransposedMatrix, n: int, device: Device) -> TransposedChoice:
    """Rank the configs for a product with `n` columns; remembered with the matrix."""
    key = (n, device)
    if key not in packed.memo:
        packed.memo[key] = choose_transposed(packed.order, packed.form.element, n, device)
    found: TransposedChoice = packed.memo[key]
    return found


def _work(
    packed: TransposedMatrix, columns: int, config: TransposedConfig, device: Device
) -> tuple[Array, int]:
    """Return the work list on the device, and how many of its entries are pieces."""
    counts = piece_counts(packed.order, columns, config, device.multiprocessors)
    key = ("work", counts.tobytes())
    if key not in packed.memo:
        cut = int(counts.sum()) if (counts > 1).any() else 0
        with settled(packed.values):
            packed.memo[key] = from_host(work_list(packed.order, counts), packed.values), cut
    found: tuple[Array, int] = packed.memo[key]
    return found
