"""The product: the kernel that ranks first, started with all it is passed; what is not fused."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import cache
from typing import Any, Final

import numpy as np

from tvwarray._dtypes import DType, product_dtype
from tvwarray._epilogue import IDENTITY, Epilogue
from tvwarray._errors import BackendError
from tvwarray._kernels import few
from tvwarray._kernels.arguments import (
    OUTPUTS,
    batch_stride,
    epilogue_arguments,
    fused_or_finished,
    operand_of,
    pitch_of,
)
from tvwarray._kernels.balance import most_steps
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import ELEMENT_BYTES, FewConfig, KernelConfig
from tvwarray._kernels.devices import Device
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.hopper.config8 import ByteConfig
from tvwarray._kernels.hopper.cost import store_steps
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.hopper.tensor_map import Boxed
from tvwarray._kernels.launch import Launcher, Result, choose_config
from tvwarray._kernels.pack import PackedMatrix
from tvwarray._kernels.repeat import Launch, overlap, place_of, scratch
from tvwarray._kernels.select import AnyConfig
from tvwarray._kernels.transpose import is_column_major
from tvwarray._namespace import Array, array_namespace, device_of, dtype_of

_SUMS: Final = {"float32": np.float32, "int32": np.int32, "float64": np.float64}

_compiled: Final = cache(compile_kernel)


def multiply(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array | None = None,
    config: AnyConfig | None = None,
    epilogue: Epilogue = IDENTITY,
) -> Array:
    """Return `epilogue` of ``A @ x``, by one launch.

    Parameters
    ----------
    launcher : Launcher
    packed : PackedMatrix
        A, of shape (rows, cols), on the device of `x`.
    x : array, shape (cols, n) or (batch, cols, n), of A's dtype
        Read where it lies if its rows are contiguous, begin at multiples of 16 bytes, and are as
        long as that; otherwise copied first, which costs one more pass over it. float32 is always
        copied, into bfloat16 parts, unless it goes through tf32.
    out : array, shape (rows, n) or (batch, rows, n), optional
        Written where it lies if its rows are contiguous; 16 bytes at a time where its rows begin
        at multiples of 16 bytes, else an element at a time.
    config : KernelConfig, HopperConfig or ByteConfig, optional
        The kernel to run, instead of the one `choose_config` ranks first. What it stores follows
        from the epilogue; ``sm90_tvw_gemm`` takes one X and stores A's dtype alone.
    epilogue : Epilogue
        Checked. Fused unless it is of float64 or integers, or has a function for an activation.

    Raises
    ------
    BackendError
        If no kernel runs the product, or it does not compile.
    """
    with launcher.using(x):
        key = None
        apart = out is None or not overlap(x, out)
        if config is None and epilogue is IDENTITY and x.ndim == 2 and apart:
            key = (launcher.stream(x), *place_of(launcher, x), *place_of(launcher, out))
            if (prepared := packed.memo.get(key)) is not None:
                return prepared.start(x, out)
        dtype = product_dtype(packed.dtype, dtype_of(x))

        def run(into: Array | None, fused: Epilogue) -> Array:
            # What is finished afterwards is not the launch that `key` names.
            return _run(
                launcher, packed, x, into, config, fused, key if fused is epilogue else None
            )

        return fused_or_finished(run, epilogue, dtype, out)


def _run(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array | None,
    config: AnyConfig | None,
    epilogue: Epilogue,
    key: Hashable | None = None,
) -> Array:
    """Run the product by one launch, and remember it by `key` if it may be started again as it is.

    That is, if X and the result are read and written where they lie.
    """
    dtype = epilogue.result_dtype(product_dtype(packed.dtype, dtype_of(x)))
    (rows, cols), n = packed.shape, int(x.shape[-1])
    shape = (*x.shape[:-2], rows, n)
    xp = array_namespace(packed.values)
    if out is None:
        out = xp.empty(shape, dtype=dtype, device=device_of(x))
    if 0 in shape:
        return out
    device = launcher.device(x)
    config = config or _best(packed, x, out, device, epilogue, dtype)
    if isinstance(config, FewConfig):
        return _run_few(launcher, packed, x, out, config, epilogue, key)
    by_columns = _stores_columns(config, out)
    in_place = (by_columns or pitch_of(out) >= n) and not overlap(x, out)
    by_columns = by_columns and in_place
    y = out if in_place else xp.empty(shape, dtype=dtype, device=device_of(x))
    operand = operand_of(launcher, packed.form, x)
    batch = 1 if x.ndim == 2 else int(x.shape[0])
    n_blocks = -(-n // config.block_n)
    columns = n_blocks * batch
    strip_bytes = _strip_bytes(config, cols)
    strip = min(columns, max(1, device.l2_bytes // 3 // strip_bytes))
    if isinstance(config, HopperConfig):
        if not _fits(config, packed, epilogue, dtype, x.ndim == 2):
            raise BackendError(
                f"{config} cannot run this: it takes one X, stores A's dtype, and has no variant "
                "with gelu for blocks of 256 rows; where it reads X in boxes, all tiles keep every "
                "column."
            )
        if not epilogue.is_cast:
            config = config.with_epilogue(epilogue.activation_name or "none")
        slabs = slabs_of(packed)
        tall, wide = (config.cluster, 1) if config.boxes else (1, config.cluster)
        work = slabs.work_list(config.block_rows, tall)
        n_blocks = -(-n_blocks // wide) * wide
        strip = max(1, min(n_blocks // wide, strip // wide))
        # Its blocks take one item after another.
        items = int(work.shape[0]) // tall * (n_blocks // wide)
        at_once = min(items, device.multiprocessors // config.cluster)
        following = slabs.following(
            config.block_rows, tall, n_blocks // wide, strip, at_once, store_steps(config)
        )
        read = operand.array
        if config.boxes:
            read = Boxed(operand.array, operand.pitch, config.bfloat16)
        passed = (
            read, operand.pitch // operand.array.itemsize, Result(y), pitch_of(y),
            slabs.slabs, packed.cols, packed.rows, work, following, int(work.shape[0]), n, n_blocks,
            strip, *epilogue_arguments(xp, epilogue, dtype, y),
        )  # fmt: skip
        kernel = _compiled(config, device.architecture)
        grid = at_once * config.cluster
        launch = Launch(kernel, grid, passed)
        return launch.first(launcher, packed, operand.array, y, x, out, key)
    if isinstance(config, ByteConfig):
        config = config.storing(OUTPUTS[dtype])
        if not epilogue.is_cast:
            config = config.with_epilogue(epilogue.activation_name or "none")
        slabs = slabs_of(packed)
        work = slabs.work_list(config.block_rows)
        items = int(work.shape[0]) * columns
        passed = (
            operand.array, operand.pitch, np.int64(operand.batch),
            Result(y), pitch_of(y), np.int64(batch_stride(y)),
            slabs.slabs, packed.cols, packed.rows, work, int(work.shape[0]), n, n_blocks, columns,
            strip, *epilogue_arguments(xp, epilogue, dtype, y),
        )  # fmt: skip
        kernel = _compiled(config, device.architecture)
        launch = Launch(kernel, min(items, device.multiprocessors), passed)
        return launch.first(launcher, packed, operand.array, y, x, out, key)
    tiles = packed.tiles
    limit = most_steps(tiles.bricks, tiles.steps, columns, config, device.multiprocessors)
    work = packed.work_list(config.block_rows, limit)
    config = replace(_variant(config, dtype, epilogue, limit > 0), column_major=by_columns)
    entries, pieces = int(work.shape[0]), tiles.pieces(config.block_rows, limit)
    partials = arrived = None
    if pieces:
        sums = pieces * columns * config.block_rows * config.block_n
        partials = scratch(launcher, packed, x, _SUMS[config.sum_element], sums)
        arrived = scratch(launcher, packed, x, np.uint32, pieces * columns)
    kernel = _compiled(config, device.architecture)
    at_once = items = entries * columns
    following = None
    if config.persistent:
        held = kernel.resident_blocks(device.shared_per_multiprocessor)
        at_once = min(items, held * device.multiprocessors)
        following = packed.following(config.block_rows, limit, columns, strip, at_once)
    lines = array_namespace(y).swapaxes(y, -1, -2) if by_columns else y
    args = (
        operand.array, operand.pitch, np.int64(operand.part), np.int64(operand.batch),
        Result(y), pitch_of(lines), np.int64(batch_stride(y)),
        packed.values, np.int64(packed.values.nbytes // config.parts), packed.meta,
        packed.cols, packed.rows, work, following, entries, n, n_blocks, columns, strip,
        partials, arrived,
        *epilogue_arguments(xp, epilogue, dtype, y),
    )  # fmt: skip
    launch = Launch(kernel, at_once, args)
    return launch.first(launcher, packed, operand.array, y, x, out, key)


def _run_few(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array,
    config: FewConfig,
    epilogue: Epilogue,
    key: Hashable | None,
) -> Array:
    """Run ``sm80_tvw_few``: X and the result where they lie, whatever their strides."""
    if x.shape[1] > config.block_n or (config.vector and x.shape[1] != 1):
        most = 1 if config.vector else config.block_n
        raise BackendError(f"{config} cannot run this: X has {x.shape[1]} columns, not {most}.")
    xp, n, dtype = array_namespace(packed.values), int(x.shape[1]), dtype_of(out)
    device, tiles, height = launcher.device(x), packed.tiles, config.block_rows
    given = x
    if overlap(x, out):
        x = xp.asarray(x, copy=True)
    limit = few.most_steps(tiles, config, device.multiprocessors)
    work, pieces = packed.work_list(height, limit), tiles.pieces(height, limit)
    partials = arrived = None
    if pieces:
        sums = pieces * height * config.block_n
        partials = scratch(launcher, packed, x, np.float32, sums)
        arrived = scratch(launcher, packed, x, np.uint32, pieces)
    variant = _variant(config, dtype, epilogue, pieces > 0)
    steps = epilogue_arguments(xp, epilogue, dtype, out)
    flat = (*steps[:5], *steps[6:9], *steps[10:])  # no strides of batches
    args = (
        x, *_strides(x), Result(out), *_strides(out),
        packed.values, packed.meta, packed.cols, packed.rows, work,
        *few.alike(tiles, height, limit), n, partials, arrived, *flat,
    )  # fmt: skip
    launch = Launch(_compiled(variant, device.architecture), int(work.shape[0]), args)
    return launch.first(launcher, packed, x, out, given, out, key)


def _strides(x: Array) -> tuple[Any, Any]:
    size = x.dtype.itemsize
    return np.int64(x.strides[0] // size), np.int64(x.strides[1] // size)


def _stores_columns(config: AnyConfig, out: Array) -> bool:
    """Say whether a kernel is to write a result where it lies, column by column."""
    if not isinstance(config, KernelConfig) or not config.column_major:
        return False
    lines = array_namespace(out).swapaxes(out, -1, -2)
    return is_column_major(out) and pitch_of(lines) >= out.shape[-2]


def _strip_bytes(config: AnyConfig, cols: int) -> int:
    """Return the bytes of X that a block's width of columns has."""
    if isinstance(config, HopperConfig):
        return 2 * max(cols, 1) * config.block_n
    if isinstance(config, ByteConfig):
        return max(cols, 1) * config.block_n
    return ELEMENT_BYTES[config.element] * config.parts * max(cols, 1) * config.block_n


def _variant(config: KernelConfig, dtype: DType, epilogue: Epilogue, pieces: bool) -> KernelConfig:
    """Return the config that stores what `epilogue` asks for."""
    return replace(
        config,
        output=OUTPUTS[dtype],
        fused=not epilogue.is_cast,
        activation=epilogue.activation_name or "none",
        pieces=pieces,
    )


def _fits(
    config: AnyConfig,
    packed: PackedMatrix,
    epilogue: Epilogue,
    dtype: DType,
    single: bool,
) -> bool:
    """Return whether a kernel does what is asked; `single` says that X is no batch."""
    if isinstance(config, HopperConfig):
        fused = epilogue.is_cast or config.can_fuse(epilogue.activation_name or "none")
        columns = packed.every_column or not config.boxes
        return single and fused and columns and dtype == packed.dtype
    if isinstance(config, ByteConfig):
        return True
    return single or not isinstance(config, FewConfig)


def _best(
    packed: PackedMatrix, x: Array, out: Array, device: Device, epilogue: Epilogue, dtype: DType
) -> AnyConfig:
    """Return the config that ranks first, of those that do what is asked."""
    n = int(x.shape[-1])
    choice = choose_config(
        packed, n, device, column_major=is_column_major(x), columns_out=is_column_major(out)
    )
    for candidate in choice.candidates:
        config = candidate.config
        if not candidate.refusal and _fits(config, packed, epilogue, dtype, x.ndim == 2):
            return config
    raise BackendError(f"no kernel runs {packed.shape} {packed.dtype.name} @ n = {n}:\n{choice}")
