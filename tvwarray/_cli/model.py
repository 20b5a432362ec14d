"""The tensors of a ``.safetensors`` file, one at a time and of any rank.

A model file is larger than any of its tensors, and none of them is a `TVWMatrix` yet: this reads
the header, and then only the bytes of the tensor asked for.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._dtypes import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, DType
from tvwarray._errors import FormatError
from tvwarray._io.header import check_header_size, read_array
from tvwarray._io.safetensors import HEADER_KEY, METADATA
from tvwarray._storage import HostArray

DTYPES: Final[dict[str, DType]] = {
    "BF16": BFLOAT16,
    "F8_E4M3": FLOAT8_E4M3,
    "F8_E5M2": FLOAT8_E5M2,
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
    **{f"{kind.upper()}{8 * n}": np.dtype(f"{kind}{n}") for kind in "iu" for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
}
"""The codes of the format that NumPy and ml_dtypes have a type for."""


class Tensor(NamedTuple):
    """What the header says of a tensor."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    """Where its bytes begin in the file."""
    end: int

    @property
    def dtype(self) -> DType | None:
        """Its dtype, or None if NumPy has none for it."""
        return DTYPES.get(self.code)


def read_header(path: str) -> tuple[list[Tensor], bool]:
    """Return the tensors of a file in its order, and whether tvwarray wrote it.

    Raises
    ------
    FormatError
        If the file is not a ``.safetensors`` file or is truncated.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise FormatError("the file is no .safetensors file, or it is truncated.")
        check_header_size(length)
        fields = json.loads(file.read(length).decode())
    if not isinstance(fields, dict):
        raise FormatError("the header is no JSON object.")
    metadata = fields.pop(METADATA, None) or {}
    tensors = [_parse(name, field, 8 + length, size) for name, field in fields.items()]
    return sorted(tensors, key=lambda t: t.begin), HEADER_KEY in metadata


def read_tensor(path: str, tensor: Tensor) -> HostArray:
    """Return a tensor as an array of its shape, in this machine's byte order."""
    dtype = tensor.dtype
    if dtype is None:
        raise FormatError(f"{tensor.name} holds {tensor.code} values, for which NumPy has no type.")
    count = math.prod(tensor.shape)
    if count * dtype.itemsize != tensor.end - tensor.begin:
        raise FormatError(
            f"{tensor.name} has {tensor.end - tensor.begin} bytes; {dtype.name} of shape "
            f"{tensor.shape} takes {count * dtype.itemsize}."
        )
    with open(path, "rb") as file:
        file.seek(tensor.begin)
        flat = read_array(file, count, dtype)
    native = flat if sys.byteorder == "little" else flat.byteswap()
    return native.reshape(tensor.shape)


def _parse(name: str, field: Any, start: int, size: int) -> Tensor:
    try:
        code, shape, (begin, end) = field["dtype"], field["shape"], field["data_offsets"]
    except (TypeError, KeyError, ValueError) as e:
        raise FormatError(f"header: {name!r} needs dtype, shape and two data_offsets.") from e
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and n >= 0 for n in numbers) or not begin <= end <= size - start:
        raise FormatError(f"header: the shape or the offsets of {name!r} make no sense.")
    return Tensor(name, str(code), tuple(shape), start + begin, start + end)
