"""Where the elements of ``mma`` and ``mma.sp`` live: the PTX ISA's fragment tables as checkable
records.

A `Fragment` says which row and column element i of a thread is, as a function of the ISA's
`groupID` (g) and `threadID_in_group` (t). Making one proves that it covers its matrix exactly once.
A `Metadata` says which thread and which bits hold the nibble of a group of columns.

These maps share nothing with the packer of the library, on purpose: a common table would be wrong
twice and pass.

References: PTX ISA 9.0, "Matrix multiply-accumulate operation using mma instruction" and "... using
mma.sp instruction with sparse matrix A".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["SHAPES", "Fragment", "Metadata", "Shape", "find_shape"]

Index = npt.NDArray[np.int64]
# (g, t, i) -> (row, column)
Place = Callable[[int, int, int], tuple[int, int]]
# (selector, row, group) -> (lane, first bit)
Holder = Callable[[int, int, int], tuple[int, int]]


@dataclass(frozen=True)
class Fragment:
    """One operand, spread over a warp.

    Parameters
    ----------
    rows, cols : int
        The matrix.
    bits : int
        Width of an element; a 32-bit register holds ``32 // bits`` of them, low bits first.
        Elements of 64 bits have a register each.
    place : callable
        Row and column of element i of the thread (g, t).

    Attributes
    ----------
    gather : int array, shape (rows, cols)
        Position of each matrix element among the fragment's elements in (register, lane, element)
        order.
    scatter : int array, shape (registers, 32, per register)
        Flat matrix position of each fragment element: the inverse.
    """

    rows: int
    cols: int
    bits: int
    place: Place
    gather: Index = field(init=False, repr=False)
    scatter: Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        per = max(1, 32 // self.bits)
        count = self.rows * self.cols // 32
        if count * 32 != self.rows * self.cols or count % per:
            raise ValueError(
                f"{self.rows} x {self.cols} elements of {self.bits} bits leave registers half full"
            )
        scatter = np.empty((count // per, 32, per), np.int64)
        for lane in range(32):
            for i in range(count):
                row, col = self.place(lane >> 2, lane & 3, i)
                if not (0 <= row < self.rows and 0 <= col < self.cols):
                    raise ValueError(
                        f"element {i} of lane {lane} is at ({row}, {col}), outside the matrix"
                    )
                scatter[i // per, lane, i % per] = row * self.cols + col
        gather = np.full(self.rows * self.cols, -1, np.int64)
        gather[scatter.ravel()] = np.arange(scatter.size)
        if (
            gather < 0
        ).any():  # as many places as elements: a hole means that another place is taken twice
            raise ValueError("the fragment does not cover its matrix exactly once")
        object.__setattr__(self, "scatter", scatter)
        object.__setattr__(self, "gather", gather.reshape(self.rows, self.cols))

    @property
    def registers(self) -> int:
        return int(self.scatter.shape[0])


@dataclass(frozen=True)
class Metadata:
    """Which threads hold the nibbles of a sparse operand with 16 rows.

    Parameters
    ----------
    groups : int
        Groups of columns in a row.
    selectors : int
        Legal sparsity selectors are 0 to ``selectors - 1``.
    holder : callable
        Lane and first bit of the nibble for (selector, row, group).

    Attributes
    ----------
    lane, bit : int arrays, shape (selectors, 16, groups)
    """

    groups: int
    selectors: int
    holder: Holder
    lane: Index = field(init=False, repr=False)
    bit: Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lane = np.empty((self.selectors, 16, self.groups), np.int64)
        bit = np.empty_like(lane)
        for s in range(self.selectors):
            for row in range(16):
                for group in range(self.groups):
                    lane[s, row, group], bit[s, row, group] = self.holder(s, row, group)
            used = lane[s] * 32 + bit[s]
            if (
                len(np.unique(used)) != used.size
                or (bit[s] % 4).any()
                or bit[s].max() > 28
                or lane[s].max() > 31
            ):
                raise ValueError(f"selector {s}: two groups share metadata bits")
        object.__setattr__(self, "lane", lane)
        object.__setattr__(self, "bit", bit)


@dataclass(frozen=True)
class Shape:
    """One instruction shape: its operands, and the metadata where A is sparse.

    `span` is the number of dense columns a metadata nibble describes: 4, or 2 for tf32.
    """

    name: str
    family: str
    k: int
    a: Fragment
    b: Fragment
    c: Fragment
    metadata: Metadata | None = None
    span: int = 4


def _a(rows: int, cols: int, bits: int) -> Fragment:
    """A of every shape with 16 rows: pairs of registers for rows g and g + 8, further pairs to the
    right.

    A register holds ``32 // bits`` neighbours in a row, four threads make a run of ``4 * that``.
    """
    per = 32 // bits

    def place(g: int, t: int, i: int) -> tuple[int, int]:
        register, part = divmod(i, per)
        return g + 8 * (register & 1), per * t + part + 4 * per * (register >> 1)

    return Fragment(rows, cols, bits, place)


def _b(rows: int, cols: int, bits: int) -> Fragment:
    """B: column g; a register holds neighbours down the column."""
    per = 32 // bits

    def place(g: int, t: int, i: int) -> tuple[int, int]:
        register, part = divmod(i, per)
        return per * t + part + 4 * per * register, g

    return Fragment(rows, cols, bits, place)


# C and D: elements 0, 1 in row g, columns 2t and 2t + 1; elements 2, 3 in row g + 8.
_C32 = Fragment(16, 8, 32, lambda g, t, i: (g + 8 * (i >> 1), 2 * t + (i & 1)))
_C16 = Fragment(16, 8, 16, lambda g, t, i: (g + 8 * (i >> 1), 2 * t + (i & 1)))

# Metadata. Sixteen-bit rows: row g in the low half of a word, row g + 8 in the high half; the
# selector names the thread (4 groups a row) or the pair of threads (8 groups, four each) of every
# four that supplies them.
_ONE_THREAD = Metadata(4, 4, lambda s, row, group: (4 * (row % 8) + s, 16 * (row // 8) + 4 * group))
_THREAD_PAIR = Metadata(
    8,
    2,
    lambda s, row, group: (4 * (row % 8) + 2 * s + group // 4, 16 * (row // 8) + 4 * (group % 4)),
)
# Eight-bit types: a word is eight groups of one row; the odd thread of a pair has row g + 8.
_BYTE_PAIR = Metadata(8, 2, lambda s, row, group: (4 * (row % 8) + 2 * s + row // 8, 4 * group))
_ALL_THREADS = Metadata(
    16, 1, lambda s, row, group: (4 * (row % 8) + 2 * (group // 8) + row // 8, 4 * (group % 8))
)


def _dense(name: str, family: str, k: int, bits: int) -> Shape:
    return Shape(name, family, k, _a(16, k, bits), _b(k, 8, bits), _C32)


def _sparse(name: str, family: str, k: int, bits: int, metadata: Metadata, span: int = 4) -> Shape:
    return Shape(name, family, k, _a(16, k // 2, bits), _b(k, 8, bits), _C32, metadata, span)


_F64 = Shape(
    "m8n8k4",
    "f64",
    4,
    Fragment(8, 4, 64, lambda g, t, i: (g, t)),
    Fragment(4, 8, 64, lambda g, t, i: (t, g)),
    Fragment(8, 8, 64, lambda g, t, i: (g, 2 * t + i)),
)

SHAPES: tuple[Shape, ...] = (
    _dense("m16n8k8", "half", 8, 16),
    _dense("m16n8k16", "half", 16, 16),
    _dense("m16n8k4", "tf32", 4, 32),
    _dense("m16n8k8", "tf32", 8, 32),
    _dense("m16n8k16", "byte", 16, 8),
    _dense("m16n8k32", "byte", 32, 8),
    _F64,
    _sparse("m16n8k16", "half", 16, 16, _ONE_THREAD),
    _sparse("m16n8k32", "half", 32, 16, _THREAD_PAIR),
    _sparse("m16n8k8", "tf32", 8, 32, _ONE_THREAD, span=2),
    _sparse("m16n8k16", "tf32", 16, 32, _THREAD_PAIR, span=2),
    _sparse("m16n8k32", "byte", 32, 8, _BYTE_PAIR),
    _sparse("m16n8k64", "byte", 64, 8, _ALL_THREADS),
)
C16 = _C16


def find_shape(name: str, family: str, sparse: bool) -> Shape | None:
    """The record for e.g. ``("m16n8k32", "half", True)``."""
    for shape in SHAPES:
        if (shape.name, shape.family, shape.metadata is not None) == (name, family, sparse):
            return shape
    return None
