"""From a launch's Python arguments to the bytes and addresses a kernel sees."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import LaunchError
from .launch import Geometry
from .memory import LOCAL_SIZE, GlobalMemory
from .program import Kernel, Variable
from .warp import Array

__all__ = ["check_geometry", "dims", "lay_out", "pack"]

_MOST_SHARED = 227 << 10


def dims(value: int | Sequence[int]) -> tuple[int, int, int]:
    """A grid or block as three sizes."""
    sizes = (value,) if isinstance(value, int | np.integer) else tuple(value)
    if not 1 <= len(sizes) <= 3:
        raise LaunchError(f"a grid or block has one to three sizes, not {len(sizes)}")
    x, y, z = (*(int(s) for s in sizes), 1, 1)[:3]
    return x, y, z


def check_geometry(kernel: Kernel, geometry: Geometry) -> None:
    """Refuse what the driver would refuse."""
    grid, block = geometry.grid, geometry.block
    if min(grid) < 1 or min(block) < 1:
        raise LaunchError(f"grid {grid} and block {block} must be positive")
    if grid[1] > 65535 or grid[2] > 65535:
        raise LaunchError(f"grid {grid}: y and z go up to 65535")
    limit = min(1024, kernel.max_threads or 1024)
    if geometry.threads > limit:
        raise LaunchError(f"{geometry.threads} threads a block; {kernel.name} allows {limit}")
    if kernel.required_block is not None:
        needed = (*kernel.required_block, 1, 1)[:3]
        if needed != block:
            raise LaunchError(f"{kernel.name} requires blocks of {needed}, not {block}")
    if grid[0] % kernel.cluster:
        raise LaunchError(f"grid {grid} is not made of clusters of {kernel.cluster} blocks")
    if geometry.shared_bytes > _MOST_SHARED:
        raise LaunchError(
            f"{geometry.shared_bytes} bytes of shared memory a block; the most is {_MOST_SHARED}"
        )


def lay_out(
    kernel: Kernel, variables: Sequence[Variable]
) -> tuple[dict[str, tuple[str, int]], int]:
    """Place parameters, shared and local variables.

    Dynamic shared memory starts after the static variables, at its declared alignment.

    Parameters
    ----------
    kernel : Kernel
    variables : sequence of Variable
        Those of the module.

    Returns
    -------
    symbols : dict
        Name to (space, address within the space).
    static : int
        Bytes of static shared memory.
    """
    symbols: dict[str, tuple[str, int]] = {}
    at = 0
    for variable in kernel.params:
        at = -(-at // variable.align) * variable.align
        symbols[variable.name] = ("param", at)
        at += variable.size
    ends = {"shared": 0, "local": 0}
    dynamic = []
    for variable in [*variables, *kernel.variables]:
        if variable.space not in ends:
            continue
        if variable.extern and variable.space == "shared":
            dynamic.append(variable)
            continue
        at = -(-ends[variable.space] // variable.align) * variable.align
        symbols[variable.name] = (variable.space, at)
        ends[variable.space] = at + variable.size
    static = ends["shared"]
    if dynamic:
        align = max(variable.align for variable in dynamic)
        static = -(-static // align) * align
    for variable in dynamic:
        symbols[variable.name] = ("shared", static)
    symbols[LOCAL_SIZE] = ("local", ends["local"])
    return symbols, static


def pack(
    kernel: Kernel, args: Sequence[Any], memory: GlobalMemory, buffers: list[tuple[Array, int]]
) -> bytes:
    """Lay the arguments out as the kernel's parameters.

    Parameters
    ----------
    kernel : Kernel
    args : sequence
        See `Interpreter.launch`.
    memory : GlobalMemory
        Arrays become buffers of it.
    buffers : list of (array, address)
        Extended by those buffers; an array given twice is one buffer.
    """
    if len(args) != len(kernel.params):
        raise LaunchError(f"{kernel.name} takes {len(kernel.params)} arguments, {len(args)} given")
    raw = bytearray()
    for variable, arg in zip(kernel.params, args, strict=True):
        raw += bytes(-len(raw) % variable.align)
        value = _bytes(variable, arg, memory, buffers)
        if len(value) != variable.size:
            raise LaunchError(
                f"parameter {variable.name} has {variable.size} bytes, the argument {len(value)}"
            )
        raw += value
    return bytes(raw)


def _bytes(
    variable: Variable, arg: Any, memory: GlobalMemory, buffers: list[tuple[Array, int]]
) -> bytes:
    size = variable.size
    if isinstance(arg, np.ndarray):
        known = next((address for array, address in buffers if array is arg), None)
        if known is None:
            known = memory.to_device(arg, name=variable.name)
            buffers.append((arg, known))
        return known.to_bytes(8, "little")
    if isinstance(arg, bytes | bytearray):
        return bytes(arg)
    if isinstance(arg, np.generic):
        return arg.tobytes()
    if isinstance(arg, int):
        if not -(1 << 8 * size - 1) <= arg < 1 << 8 * size:
            raise LaunchError(f"{arg} does not fit parameter {variable.name} of {size} bytes")
        return (arg & (1 << 8 * size) - 1).to_bytes(size, "little")
    if isinstance(arg, float) and size in (4, 8):
        return struct.pack("<f" if size == 4 else "<d", arg)
    raise LaunchError(f"parameter {variable.name}: cannot pass a {type(arg).__name__}")
