"""Tensor maps: what ``cp.async.bulk.tensor`` knows of a matrix in global memory.

The driver's 128 bytes are its own secret, so a map here has an encoding of its own, made by
`TensorMap.encode` in place of ``cuTensorMapEncodeTiled``, whose rules it keeps. Two dimensions, the
box in shared memory in the 128-byte swizzle: chunks of 16 bytes, bits 4 up of the address XOR bits
7 up.

Reference: CUDA Driver API, "Tensor Map Object Management"; PTX ISA 9.0, "Tensors" and "Swizzling
modes".
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

import numpy as np

from .errors import InvalidOperand, Misaligned
from .memory import GlobalMemory
from .warp import Array, Warp

__all__ = ["MAP_BYTES", "TensorMap"]

MAP_BYTES = 128
_MAGIC = b"tile map"
_LAYOUT = "<8sQQQQIII"
_SPAN = 128  # bytes of a row of the swizzled box
_CHUNK = 16


@dataclass(frozen=True)
class TensorMap:
    """A matrix of `rows` x `columns` elements of `size` bytes, and the box that one copy moves."""

    address: int
    columns: int
    rows: int
    pitch: int
    """Bytes from one row to the next."""
    box_columns: int
    box_rows: int
    size: int

    def __post_init__(self) -> None:
        if self.address % 16 or self.pitch % 16 or not 0 < self.pitch < 1 << 40:
            raise InvalidOperand("a tensor and its rows begin at multiples of 16 bytes")
        if not (0 < self.columns <= 1 << 32 and 0 < self.rows <= 1 << 32):
            raise InvalidOperand("a tensor has 1 to 2^32 elements in each dimension")
        if not (0 < self.box_columns <= 256 and 0 < self.box_rows <= 256):
            raise InvalidOperand("a box has 1 to 256 elements in each dimension")
        if self.box_columns * self.size != _SPAN:
            raise InvalidOperand(f"rows of a box in the 128-byte swizzle have {_SPAN} bytes here")

    def encode(self) -> bytes:
        """The map as bytes."""
        return struct.pack(_LAYOUT, _MAGIC, *astuple(self)).ljust(MAP_BYTES, b"\0")

    @classmethod
    def decode(cls, raw: bytes) -> TensorMap:
        """The map that the bytes are."""
        magic, *fields = struct.unpack_from(_LAYOUT, raw)
        if magic != _MAGIC:
            raise InvalidOperand("these bytes are no tensor map")
        return cls(*fields)

    @property
    def nbytes(self) -> int:
        """Bytes of a box, all of which its barrier is told of, also beyond the edges."""
        return self.box_rows * _SPAN

    def read(self, memory: GlobalMemory, warp: Warp, lane: int, column: int, row: int) -> Array:
        """The box at a place, zeros beyond the edges: shape (chunks, 2), uint64."""
        down = np.arange(row, row + self.box_rows)
        along = np.arange(column, column + self.box_columns)
        inside = ((down >= 0) & (down < self.rows))[:, None] & (
            (along >= 0) & (along < self.columns)
        )
        raw = np.zeros(inside.shape, f"u{self.size}")
        if inside.any():
            at = (self.address + down[:, None] * self.pitch + along * self.size)[inside]
            raw[inside] = memory.read(warp, np.full(at.size, lane), at, self.size, self.size)
        return raw.reshape(-1).view(np.uint64).reshape(-1, 2)

    def targets(self, start: int, lane: int) -> Array:
        """Where each chunk of a box goes whose first one is at the shared address `start`."""
        if start % _SPAN:
            raise Misaligned(f"a box goes to {start}, which is no multiple of {_SPAN}", lane=lane)
        at = start + np.arange(0, self.nbytes, _CHUNK)
        found: Array = at ^ (at >> 7 & 7) << 4
        return found
