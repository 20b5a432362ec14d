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
    epilogue_bytes,
    fused_or_finished,
    is_fused,
    is_read_in_place,
    operand_bytes,
    operand_of,
    pitch_of,
)
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import (
    ELEMENT_BYTES,
    MOST_ELEMENTS,
    FewConfig,
    KernelConfig,
    VectorConfig,
)
from tvwarray._kernels.devices import Device
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.hopper.config8 import ByteConfig
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.hopper.tensor_map import Boxed
from tvwarray._kernels.launch import Launcher, Result, choose_config
from tvwarray._kernels.pack import PackedMatrix
from tvwarray._kernels.repeat import Launch, overlap, place_of
from tvwarray._kernels.select import AnyConfig
from tvwarray._kernels.transpose import is_column_major
from tvwarray._kernels.workspace import Memory, Pieces, check_allocates_nothing, pieces_of
from tvwarray._namespace import Array, array_namespace, device_of, dtype_of

_compiled: Final = cache(compile_kernel)


def multiply(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array | None = None,
    config: AnyConfig | None = None,
    epilogue: Epilogue = IDENTITY,
    workspace: Array | None = None,
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
    workspace : uint8 array, shape (bytes,), optional
        Where copies and sums of pieces go, instead of memory that is kept with the matrix or new.

    Raises
    ------
    BackendError
        If no kernel runs the product, it does not compile, or it allocates beside the workspace.
    ValueError
        If the workspace is too small or not aligned.
    """
    with launcher.using(x):
        key = None
        apart = out is None or not overlap(x, out)
        if config is None and epilogue is IDENTITY and x.ndim == 2 and apart:
            key = (launcher.stream(x), *place_of(launcher, x), *place_of(launcher, out))
            prepared = packed.memo.get(key)
            if prepared is not None and (workspace is None or not prepared.uses_scratch):
                return prepared.start(x, out)
        dtype, memory = (
            product_dtype(packed.dtype, dtype_of(x)),
            Memory(launcher, packed, x, workspace),
        )
        if workspace is not None:
            check_allocates_nothing(is_fused(epilogue, dtype))

        def run(into: Array | None, fused: Epilogue) -> Array:
            # What is finished afterwards is not the launch that `key` names.
            return _run(
                launcher, packed, x, into, config, fused, memory, key if fused is epilogue else None
            )

        return fused_or_finished(run, epilogue, dtype, out)


def _run(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array | None,
    config: AnyConfig | None,
    epilogue: Epilogue,
    memory: Memory,
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
    config = config or _best(packed, x, out, device, dtype)
    if isinstance(config, FewConfig):
        return _run_few(launcher, packed, x, out, config, epilogue, memory, key)
    by_columns = _stores_columns(config, out)
    in_place = (by_columns or pitch_of(out) >= n) and not overlap(x, out)
    by_columns = by_columns and in_place
    batch = 1 if x.ndim == 2 else int(x.shape[0])
    n_blocks = -(-n // config.block_n)
    columns = n_blocks * batch
    cut_for = "pieces", config, columns, device.multiprocessors
    if cut_for not in packed.memo:
        packed.memo[cut_for] = pieces_of(packed.tiles, config, columns, device.multiprocessors)
    pieces: Pieces = packed.memo[cut_for]
    memory.need(
        0 if in_place else out.nbytes, *operand_bytes(launcher, packed.form, x), *pieces.nbytes,
        *epilogue_bytes(epilogue, dtype, out),
    )  # fmt: skip
    y = out if in_place else memory.empty(shape, dtype)
    operand = operand_of(packed.form, x, memory)
    strip_bytes = _strip_bytes(config, cols)
    strip = min(columns, max(1, device.l2_bytes // 3 // strip_bytes))
    if isinstance(config, HopperConfig):
        if not _fits(config, packed, dtype, x.ndim == 2):
            raise BackendError(
                f"{config} cannot run this: it takes one X and stores A's dtype; where it reads X "
                "in boxes, all tiles keep every column."
            )
        if not epilogue.is_cast:
            config = config.with_epilogue(epilogue.activation_name or "none")
        slabs = slabs_of(packed)
        tall, wide, height = config.tall, config.wide, config.block_rows
        work = slabs.work_list(height, tall, pieces.limit)
        config = replace(config, cut=pieces.counters > 0)
        n_blocks = -(-n_blocks // wide) * wide
        # Its blocks take one item after another.
        entries = int(work.shape[0]) // tall
        items = entries * (n_blocks // wide)
        at_once = min(items, device.multiprocessors // config.cluster)
        strip = max(1, min(n_blocks // wide, strip // wide))
        if not config.boxes:  # of boxes narrow strips were no faster
            strip = slabs.strip(entries, at_once, strip, device.l2_bytes)
        following = slabs.following(config, pieces.limit, n_blocks // wide, strip, at_once)
        partials, arrived = memory.joined(pieces)
        read = operand.array
        if config.boxes:
            read = Boxed(operand.array, operand.pitch, config.bfloat16)
        passed = (
            read, operand.pitch // operand.array.itemsize, Result(y), pitch_of(y),
            slabs.slabs, packed.cols, packed.rows, work, following, int(work.shape[0]), n, n_blocks,
            strip, partials, arrived, *epilogue_arguments(epilogue, dtype, y, memory),
        )  # fmt: skip
        kernel = _compiled(config, device.architecture)
        grid = at_once * config.cluster
        launch = Launch(kernel, grid, passed, memory.borrowed)
        return launch.first(launcher, packed, operand.array, y, x, out, key)
    if isinstance(config, ByteConfig):
        config = config.storing(OUTPUTS[dtype])
        if not epilogue.is_cast:
            config = config.with_epilogue(epilogue.activation_name or "none")
        slabs = slabs_of(packed)
        work = slabs.work_list(config.block_rows)
        items = int(work.shape[0]) * columns
        at_once = min(items, device.multiprocessors)
        following = slabs.following(config, 0, columns, strip, at_once)
        passed = (
            operand.array, operand.pitch, np.int64(operand.batch),
            Result(y), pitch_of(y), np.int64(batch_stride(y)),
            slabs.slabs, packed.cols, packed.rows, work, following, int(work.shape[0]), n, n_blocks,
            columns, strip, *epilogue_arguments(epilogue, dtype, y, memory),
        )  # fmt: skip
        kernel = _compiled(config, device.architecture)
        launch = Launch(kernel, at_once, passed, memory.borrowed)
        return launch.first(launcher, packed, operand.array, y, x, out, key)
    work = packed.work_list(config.block_rows, pieces.limit)
    config = replace(_variant(config, dtype, epilogue, pieces.limit > 0), column_major=by_columns)
    entries = int(work.shape[0])
    partials, arrived = memory.joined(pieces)
    kernel = _compiled(config, device.architecture)
    at_once = items = entries * columns
    following = None
    if config.persistent:
        held = kernel.resident_blocks(device.shared_per_multiprocessor)
        at_once = min(items, held * device.multiprocessors)
        following = packed.following(config.block_rows, pieces.limit, columns, strip, at_once)
    lines = array_namespace(y).swapaxes(y, -1, -2) if by_columns else y
    args = (
        operand.array, operand.pitch, np.int64(operand.part), np.int64(operand.batch),
        Result(y), pitch_of(lines), np.int64(batch_stride(y)),
        packed.values, np.int64(packed.values.nbytes // config.parts), packed.meta,
        packed.cols, packed.rows, work, following, entries, n, n_blocks, columns, strip,
        partials, arrived,
        *epilogue_arguments(epilogue, dtype, y, memory),
    )  # fmt: skip
    launch = Launch(kernel, at_once, args, memory.borrowed)
    return launch.first(launcher, packed, operand.array, y, x, out, key)


def _run_few(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array,
    config: FewConfig,
    epilogue: Epilogue,
    memory: Memory,
    key: Hashable | None,
) -> Array:
    """Run a kernel for few columns: the result where it lies, and X, unless it must be copied."""
    (cols, n), vector = x.shape, isinstance(config, VectorConfig)
    if not config.takes(int(cols), int(n)):
        raise BackendError(f"{config} cannot run this: X is {tuple(x.shape)}.")
    dtype, given, device, height = dtype_of(out), x, launcher.device(x), config.block_rows
    pieces = pieces_of(packed.tiles, config, 1, device.multiprocessors)
    chunks = config.copied or (is_column_major(x) and x.shape[1] > MOST_ELEMENTS)
    copied = chunks and not is_read_in_place(launcher, packed.form, x)
    over = overlap(x, out) and not copied
    memory.need(
        *(operand_bytes(launcher, packed.form, x) if copied else [x.nbytes] if over else []),
        *pieces.nbytes, *epilogue_bytes(epilogue, dtype, out),
    )  # fmt: skip
    if copied:
        x = operand_of(packed.form, x, memory).array
    elif over:
        x = memory.copy(x)
    work = packed.work_list(height, pieces.limit)
    partials, arrived = memory.joined(pieces)
    variant = _few_variant(config, dtype, epilogue, pieces.counters > 0)
    steps = epilogue_arguments(epilogue, dtype, out, memory)
    flat = (*steps[:5], *steps[6:9], *steps[10:])  # no strides of batches
    columns = 1 if vector else 2  # how many strides a matrix has
    args = (
        x, int(cols), *_strides(x)[:columns], Result(out), *_strides(out)[:columns],
        packed.values, packed.meta, packed.cols, packed.rows, work,
        *few.alike(packed.tiles, height, pieces.limit), *(() if vector else (int(n),)),
        partials, arrived, *flat,
    )  # fmt: skip
    launch = Launch(
        _compiled(variant, device.architecture), int(work.shape[0]), args, memory.borrowed
    )
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


def _few_variant(config: FewConfig, dtype: DType, epilogue: Epilogue, pieces: bool) -> FewConfig:
    variant = _variant(config, dtype, epilogue, pieces)
    assert isinstance(variant, FewConfig)
    return variant.with_room()


def _fits(config: AnyConfig, packed: PackedMatrix, dtype: DType, single: bool) -> bool:
    """Return whether a kernel does what is asked; `single` says that X is no batch."""
    if isinstance(config, HopperConfig):
        columns = packed.every_column or not config.boxes
        return single and columns and dtype == packed.dtype
    if isinstance(config, ByteConfig):
        return True
    return single or not isinstance(config, FewConfig)


def _best(packed: PackedMatrix, x: Array, out: Array, device: Device, dtype: DType) -> AnyConfig:
    """Return the config that ranks first, of those that do what is asked."""
    n = int(x.shape[-1])
    choice = choose_config(
        packed, n, device, column_major=is_column_major(x), columns_out=is_column_major(out)
    )
    for candidate in choice.candidates:
        config = candidate.config
        if not candidate.refusal and _fits(config, packed, dtype, x.ndim == 2):
            return config
    raise BackendError(f"no kernel runs {packed.shape} {packed.dtype.name} @ n = {n}:\n{choice}")
