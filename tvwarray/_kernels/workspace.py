"""What a product takes of memory beside its operands: the caller's workspace, or arrays of its own.

Three things: the sums of tiles in pieces, with a counter for each; copies of X, where a kernel
cannot read it as it lies, and of the result, where it cannot write it so; what an epilogue adds, in
another type. Without a workspace the first are kept with the matrix, one set for each stream, and
the others are allocated. With one nothing is: parts of it are handed out one after another, and two
products that have workspaces of their own share nothing that they write to.

The counters are cleared by the product, in its stream, before its kernel; what else a workspace
holds, before and after, means nothing.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._dtypes import DType, product_dtype
from tvwarray._errors import BackendError
from tvwarray._kernels import few
from tvwarray._kernels.balance import most_steps
from tvwarray._kernels.config import (
    ELEMENT_BYTES,
    MOST_ELEMENTS,
    FewConfig,
    KernelConfig,
    VectorConfig,
)
from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import Device
from tvwarray._kernels.elements import Form
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.hopper.cost import cut_of
from tvwarray._kernels.launch import Launcher, Scratch
from tvwarray._kernels.repeat import CHUNK, Packed, scratch
from tvwarray._kernels.select import AnyConfig, Choice
from tvwarray._kernels.tiles import piece_count
from tvwarray._namespace import Array, array_namespace, device_of

ALIGNMENT: Final = 256
"""Of a workspace, and of what is taken from it, in bytes."""

SUMS: Final[dict[str, Any]] = {"float32": np.float32, "int32": np.int32, "float64": np.float64}


def padded(nbytes: int) -> int:
    """Return what `nbytes` take of a workspace."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Memory:
    """Where a product takes memory from.

    Parameters
    ----------
    launcher : Launcher
    packed : Packed
        The matrix, with which memory is kept if there is no workspace.
    like : array
        An operand: new arrays are of its library, on its device.
    given : uint8 array, shape (bytes,), optional
        The workspace.

    Raises
    ------
    ValueError
        If `given` does not begin at a multiple of 256 bytes.
    """

    def __init__(
        self, launcher: Launcher, packed: Packed, like: Array, given: Array | None = None
    ) -> None:
        self.launcher, self._packed, self._like = launcher, packed, like
        self.given, self._taken = given, 0
        if given is not None and (over := launcher.address(given) % ALIGNMENT):
            raise ValueError(
                f"workspace begins {over} bytes behind a multiple of {ALIGNMENT}; it must begin at "
                "one, as arrays of their own do. Do not pass a slice of a larger array."
            )

    @property
    def borrowed(self) -> bool:
        """Whether there is a workspace."""
        return self.given is not None

    def need(self, *nbytes: int) -> None:
        """Say whether the workspace is large enough for all that is taken of it.

        Raises
        ------
        ValueError
            If it is not; the message says how many bytes are.
        """
        total = sum(map(padded, nbytes))
        if self.given is not None and total > int(self.given.shape[0]):
            raise ValueError(
                f"workspace has {int(self.given.shape[0])} bytes; this product takes {total}. "
                "tvwarray.plan(A, n).workspace_bytes says how many products with n columns take "
                "(order='F' for column-major operands, as those of linear)."
            )

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array whose values mean nothing."""
        xp = array_namespace(self._like)
        if self.given is None:
            return xp.empty(shape, dtype=dtype, device=device_of(self._like))
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        start, self._taken = self._taken, self._taken + padded(nbytes)
        return xp.reshape(self.given[start : start + nbytes].view(dtype), shape)

    def copy(self, x: Array, dtype: DType | None = None) -> Array:
        """Return a contiguous copy of `x`, cast to `dtype`."""
        to = self.empty(tuple(x.shape), dtype or x.dtype)
        to[...] = x
        return to

    def joined(self, pieces: Pieces) -> tuple[Scratch | None, Scratch | None]:
        """Return memory for the sums of pieces, and for counters, which are zero; if any."""
        if not pieces.counters:
            return None, None
        if self.given is None:
            kept = self.launcher, self._packed, self._like
            return (
                scratch(*kept, pieces.dtype, pieces.sums),
                scratch(*kept, np.uint32, pieces.counters),
            )
        partials = self.empty((pieces.sums,), pieces.dtype)
        arrived = self.empty((pieces.counters,), np.uint32)
        arrived.fill(0)
        return Scratch(partials), Scratch(arrived)


class Pieces(NamedTuple):
    """How tiles are cut, and what adding up takes."""

    limit: int
    """Steps of a block at most, or 0."""
    dtype: Any
    sums: int
    counters: int

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of the sums and of the counters."""
        return self.sums * np.dtype(self.dtype).itemsize, 4 * self.counters


def pieces_of(tiles: few.Sized, config: AnyConfig, columns: int, multiprocessors: int) -> Pieces:
    """Return how a kernel cuts tiles; that of 8-bit values on Hopper does not.

    Parameters
    ----------
    tiles : Tiles or Problem
    config : KernelConfig, HopperConfig or ByteConfig
    columns : int
        Blocks side by side.
    multiprocessors : int
    """
    if isinstance(config, HopperConfig):
        limit = cut_of(config, tiles.bricks, tiles.steps, columns, multiprocessors)
        count = columns * piece_count(tiles.bricks, tiles.steps, config.block_rows, limit)
        sums, warps = count * config.block_rows * config.block_n, count * config.multiply_warps
        return Pieces(limit, np.float32, sums, warps)
    if not isinstance(config, KernelConfig):
        return Pieces(0, np.float32, 0, 0)
    if isinstance(config, FewConfig):
        limit = few.most_steps(tiles, config, multiprocessors)
    else:
        limit = most_steps(tiles.bricks, tiles.steps, columns, config, multiprocessors)
    count = columns * piece_count(tiles.bricks, tiles.steps, config.block_rows, limit)
    width = 1 if isinstance(config, VectorConfig) else config.block_n
    return Pieces(limit, SUMS[config.sum_element], count * config.block_rows * width, count)


def row_elements(form: Form, n: int) -> int:
    """Return the elements of a row of a copy of X: whole chunks."""
    size = ELEMENT_BYTES[form.element]
    return -(-n * size // CHUNK) * CHUNK // size


def workspace_bytes(choice: Choice, problem: Problem, device: Device, *, column_major: bool) -> int:
    """Return the bytes that products with one X take at most, of a `choice` for `problem`.

    Operands are contiguous and aligned, or all of them column-major; an epilogue has a bias that is
    not float32, and what else it adds in the type of the result.
    """
    most, form, n = 0, problem.form, problem.n
    rows, cols = problem.shape
    size = ELEMENT_BYTES[form.element]
    copy = [form.parts * cols * row_elements(form, n) * size]
    if form.parts > 1 and column_major:  # it is brought into rows, and split then
        copy.append(cols * n * problem.dtype.itemsize)
    result = rows * n * max(4, product_dtype(problem.dtype, problem.dtype).itemsize)
    for config in (c.config for c in choice.candidates if not c.refusal):
        taken: list[int] = [4 * max(rows, n)]
        anywhere = isinstance(config, FewConfig) and not config.copied and n <= MOST_ELEMENTS
        if not anywhere and (column_major or n * size % CHUNK or form.parts > 1):
            taken += copy
        if column_major and not isinstance(config, FewConfig):
            taken.append(result)
        columns = -(-n // config.block_n)
        taken += pieces_of(problem, config, columns, device.multiprocessors).nbytes
        most = max(most, sum(map(padded, taken)))
        if isinstance(config, KernelConfig):
            break  # which runs whatever is asked: none behind it is ever taken
    return most


def check_allocates_nothing(fused: bool) -> None:
    """Refuse a workspace for products that take memory beside it.

    Raises
    ------
    BackendError
        If the array library does a part of the epilogue.
    """
    if not fused:
        raise BackendError(
            "workspace= is given, and the array library, which allocates, does a part of this "
            "epilogue: functions as activations, and epilogues of float64 and of integers that "
            "stay integers.\nDrop workspace=, or name the activation."
        )
