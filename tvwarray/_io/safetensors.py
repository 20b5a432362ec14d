"""The ``.safetensors`` container: every value dtype natively, readable by any framework.

A file is the length of a header, the header, and the bytes of the tensors, without gaps [1]_::

    8 bytes     little-endian length of the header
    header      {"__metadata__": {"tvwarray": "..."},
                 "data": {"dtype": "BF16", "shape": [n], "data_offsets": [begin, end]}, ...}
    tensors     little-endian, offsets count from here

The few lines that this takes are here rather than in the ``safetensors`` package, whose NumPy side
(0.8) reads no 8-bit floats, orders metadata at random, and would open the file a second time. The
format has no complex128: such values are an F64 tensor of shape (n, 2), real and imaginary parts.

References
----------
.. [1] https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._errors import FormatError
from tvwarray._io.header import Arrays, check_header_size, parse_json, read_array
from tvwarray._storage import HostArray

METADATA: Final = "__metadata__"
HEADER_KEY: Final = "tvwarray"
ALIGNMENT: Final = 8

_CODES: Final = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "complex128": "F64",
}


class _Tensor(NamedTuple):
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write(file: BinaryIO, header: str, arrays: Arrays) -> None:
    """Write the header and the arrays to an empty file."""
    fields: dict[str, Any] = {METADATA: {HEADER_KEY: header}}
    # Wide values first, by which every tensor is aligned.
    order = sorted(arrays, key=lambda key: (-arrays[key].dtype.itemsize, key))
    end = 0
    for key in order:
        array = arrays[key]
        begin, end = end, end + array.nbytes
        code, shape = _CODES[array.dtype.name], _shape_in_file(array.size, array.dtype)
        fields[key] = {"dtype": code, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    check_header_size(len(text))
    file.write(struct.pack("<Q", len(text)) + text)
    for key in order:
        file.write(_little_endian(arrays[key]).view(np.uint8).data)


class SafetensorsSource:
    """An opened ``.safetensors`` file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise FormatError("the file ends too early.")
        (length,) = struct.unpack("<Q", prefix)
        self._file, self._start = file, 8 + length
        if self._start > size:
            raise FormatError(f"a header of {length} bytes is not in a file of {size} bytes.")
        check_header_size(length)
        fields = parse_json(file.read(length))
        metadata = fields.pop(METADATA, None) if isinstance(fields, dict) else None
        header = metadata.get(HEADER_KEY) if isinstance(metadata, dict) else None
        if not isinstance(header, str):
            raise FormatError(
                f"the file has no metadata {HEADER_KEY!r}: it was not written by tvwarray.\n"
                "Load it with the library that wrote it, and convert what it holds."
            )
        self.header = header.encode()
        self._tensors = {key: _parse_tensor(key, field) for key, field in fields.items()}
        self.keys = set(self._tensors)
        place = 0
        for t in sorted(self._tensors.values(), key=lambda t: (t.begin, t.end)):
            if t.begin != place:
                raise FormatError("its tensors overlap, or there are gaps between them.")
            place = t.end
        if place != size - self._start:
            raise FormatError(
                f"its tensors claim {place} bytes; the file has {size - self._start} for them."
            )

    def read(self, key: str, dtype: DType, /) -> HostArray:
        """Return a flat array of the file, provided that it has this dtype."""
        tensor = self._tensors[key]
        count, odd = divmod(tensor.end - tensor.begin, dtype.itemsize)
        shape = _shape_in_file(count, dtype)
        if odd or (tensor.code, tensor.shape) != (_CODES[dtype.name], shape):
            raise FormatError(
                f"{key} is {tensor.code!r} of shape {tensor.shape} in {tensor.end - tensor.begin} "
                f"bytes; it must be {_CODES[dtype.name]!r} of shape {shape}."
            )
        self._file.seek(self._start + tensor.begin)
        return _little_endian(read_array(self._file, count, dtype))


def _parse_tensor(key: str, field: Any) -> _Tensor:
    try:
        code, shape, (begin, end) = field["dtype"], field["shape"], field["data_offsets"]
    except (TypeError, KeyError, ValueError) as e:
        raise FormatError(f"header: {key!r} needs dtype, shape and two data_offsets.") from e
    whole = isinstance(shape, list) and all(type(n) is int for n in (*shape, begin, end))
    if not whole or not 0 <= begin <= end:
        raise FormatError(f"header: the shape and the offsets of {key!r} make no sense.")
    return _Tensor(code, tuple(shape), begin, end)


def _shape_in_file(count: int, dtype: DType) -> tuple[int, ...]:
    return (count, 2) if dtype == np.complex128 else (count,)


def _little_endian(array: HostArray) -> HostArray:
    """Change the bytes from this machine's order to that of the file, or back."""
    return array if sys.byteorder == "little" else array.byteswap()
