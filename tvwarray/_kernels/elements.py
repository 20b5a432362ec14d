"""Values of A and X as tensor cores take them: which element a dtype is, and how it is cast.

==============  ===========================  =====================================================
dtype           precision                    element
==============  ===========================  =====================================================
float16, ...    any                          itself; float8 from sm_89 on, float64 on sm_80 and 90
float8          "high", "highest"            itself; on Hopper sums are added up in float32
float32         "default", "highest"         bfloat16 in three parts, all 24 bits
float32         "high"                       bfloat16 in two parts, 16 bits
float32         "tf32"                       tf32, 11 bits; 1:2 where there are pairs
==============  ===========================  =====================================================
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tvwarray._dtypes import (
    BFLOAT16,
    EIGHT_BIT_FLOATS,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT16,
    FLOAT32,
    DType,
    Precision,
)
from tvwarray._kernels.config import Element
from tvwarray._namespace import Array, array_namespace
from tvwarray._storage import TVWStorage
from tvwarray._two_four import expand_24

FLOAT64: Final = np.dtype(np.float64)
INT8: Final = np.dtype(np.int8)


class Form(NamedTuple):
    """How the values of a matrix go through tensor cores."""

    element: Element
    parts: int = 1
    promoted: bool = False
    """Whether float32 sums, which tensor cores keep with fewer bits, are added up outside them."""

    def keeps_pattern(self, sparse: bool) -> bool:
        """Say whether a matrix with pattern (2, 4) is multiplied by ``mma.sp``."""
        return sparse and self.element != "float64"


_FORMS: Final[dict[DType, Form]] = {
    FLOAT16: Form("float16"),
    BFLOAT16: Form("bfloat16"),
    INT8: Form("int8"),
    FLOAT8_E4M3: Form("float8_e4m3"),
    FLOAT8_E5M2: Form("float8_e5m2"),
    FLOAT64: Form("float64"),
}

_OF_FLOAT32: Final[dict[Precision, Form]] = {
    "default": Form("bfloat16", 3),
    "highest": Form("bfloat16", 3),
    "high": Form("bfloat16", 2),
    "tf32": Form("tf32"),
}


def form_of(dtype: DType, precision: Precision = "default") -> Form | None:
    """Return how values of `dtype` are multiplied, or None if there is no way."""
    if dtype == FLOAT32:
        return _OF_FLOAT32[precision]
    form = _FORMS.get(dtype)
    if form is not None and dtype in EIGHT_BIT_FLOATS and precision in ("high", "highest"):
        return form._replace(promoted=True)
    return form


def refusal(form: Form, architecture: str, *, wgmma: bool = False) -> str:
    """Return why an architecture does not multiply `form`, in a sentence, or an empty string.

    Parameters
    ----------
    form : Form
    architecture : str
    wgmma : bool
        The instruction is ``wgmma.sp`` where there is one, on sm_90, else ``mma`` or ``mma.sp``.
    """
    number = int(architecture.rstrip("af"))
    if form.element.startswith("float8"):
        if number < 89:
            return f"float8 needs compute capability 8.9, sm_{architecture} has no products of it"
        if number // 10 == 9 and not wgmma:
            return (
                f"float8 mma is emulated on sm_{architecture}, at a tenth of the speed of float16, "
                "and wgmma multiplies pattern (2, 4) alone; cast A and X to float16"
            )
        if number // 10 == 10:
            return (
                f"float8 mma.sp is emulated on sm_{architecture}, at a tenth of the speed of "
                "float16; cast A and X to float16"
            )
    if form.element == "float64" and architecture.rstrip("af") not in ("80", "90"):
        return f"float64 needs the tensor cores of sm_80 or sm_90, sm_{architecture} has none"
    return ""


def bfloat16_parts(x: Array, parts: int) -> list[Array]:
    """Split float32 values into bfloat16 parts whose sum they are, as far as parts reach.

    Each part is what is left, rounded to the nearest; three hold all 24 bits as long as the last
    is no smaller than bfloat16's least number. A value that would round to infinity is truncated.
    What is not finite is the first part alone.

    Parameters
    ----------
    x : float32 array
    parts : int

    Returns
    -------
    list of uint16 arrays
        Bit patterns.
    """
    xp = array_namespace(x)
    found = []
    rest = xp.asarray(x, copy=True)
    for _ in range(parts):
        bits = rest.view(np.uint32)
        finite = (bits & 0x7F800000) != 0x7F800000
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        # A NaN stays one, and quiet, whatever its lower bits were.
        quiet = xp.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x400000, 0).astype(np.uint32)
        overflows = (nearest & 0x7F800000) == 0x7F800000
        part = xp.where(finite & ~overflows, nearest, (bits & 0xFFFF0000) | quiet)
        found.append((part >> 16).astype(np.uint16))
        taken = xp.where(finite, part, 0).astype(np.uint32).view(np.float32)
        rest = xp.where(finite, rest, 0).astype(np.float32) - taken
    return found


def round_tf32(x: Array) -> Array:
    """Round float32 values to the 11 bits of tf32, to the nearest; bit patterns, uint32."""
    xp = array_namespace(x)
    bits = x.view(np.uint32)
    finite = (bits & 0x7F800000) != 0x7F800000
    return xp.where(finite, (bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000, bits).astype(
        np.uint32
    )


def value_planes(storage: TVWStorage, form: Form) -> list[Array]:
    """Return the values of a storage as bit patterns, an array for each part, in its order.

    Of float64 with pattern (2, 4), all slots: there is no sparse product.
    """
    data = storage.data
    if form.element == "float64":
        if storage.meta is not None:
            tiles = [storage.tile(t) for t in range(storage.num_tiles)]
            xp = array_namespace(data)
            flat = [xp.reshape(expand_24(tile.data, tile.meta), (-1,)) for tile in tiles]
            data = xp.concat([data[:0], *flat])
        return [data.view(np.uint64)]
    if form.parts > 1:
        return bfloat16_parts(data, form.parts)
    if form.element == "tf32":
        return [round_tf32(data)]
    return [data.view(np.uint8 if data.dtype.itemsize == 1 else np.uint16)]


class Pairs(NamedTuple):
    """Pattern (2, 4) as 1:2, two pairs for each group."""

    data: Array
    """As stored, a value for each pair."""
    meta: Array
    """uint16: a nibble for each pair, four of them a word."""
    crowded: int
    """Groups, of some row, of which one pair holds both values."""


def as_pairs(data: Array, meta: Array) -> Pairs:
    """Find for each pair of slots the one value that tf32's 1:2 lets it hold.

    A value that is zero may stand in either pair.
    """
    xp = array_namespace(data)
    shifts = xp.asarray(np.array([0, 4, 8, 12], np.uint16))
    nibbles = ((meta[:, None] >> shifts) & 15).reshape(-1)
    value = data.reshape(-1, 2)
    place = xp.stack([nibbles & 3, nibbles >> 2], axis=1)
    kept = value != 0
    upper = place >= 2
    nibble, chosen = [], []
    crowded = 0
    for pair in (0, 1):
        mine = kept & (upper == bool(pair))
        crowded += int(xp.sum(mine[:, 0] & mine[:, 1]))
        second = mine[:, 1]
        chosen.append(xp.where(second, value[:, 1], xp.where(mine[:, 0], value[:, 0], 0)))
        at = xp.where(second, place[:, 1], xp.where(mine[:, 0], place[:, 0], 0)) & 1
        nibble.append(xp.where(at == 1, 0xE, 0x4))
    words = xp.stack(nibble, axis=1).astype(np.uint16).reshape(-1, 4)
    packed = words[:, 0] | words[:, 1] << 4 | words[:, 2] << 8 | words[:, 3] << 12
    return Pairs(
        xp.stack(chosen, axis=1).astype(data.dtype).reshape(-1), packed.astype(np.uint16), crowded
    )
