"""The ``.npz`` container: a zip file of ``.npy`` members, which ``numpy.load`` opens too.

All members are stored as they are, not deflated: weights hardly compress, and no member can then
claim more memory than the file has bytes. NumPy has no bfloat16 and no 8-bit floats; their bits are
stored as uint16 and uint8, and the header names the dtype.
"""

from __future__ import annotations

import zipfile
from typing import BinaryIO, Final

import numpy as np

from tvwarray._dtypes import BFLOAT16, EIGHT_BIT_FLOATS, DType
from tvwarray._errors import FormatError
from tvwarray._io.header import UINT16, Arrays, check_header_size, read_array
from tvwarray._storage import HostArray

HEADER_MEMBER: Final = "tvwarray.json"
_SUFFIX: Final = ".npy"
_NPY_VERSION: Final = (1, 0)
_MAX_NPY_HEADER: Final = 1024
_ENCRYPTED: Final = 0x1


def write(file: BinaryIO, header: str, arrays: Arrays) -> None:
    """Write the header and the arrays to an empty file."""
    text = header.encode()
    check_header_size(len(text))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo of its own has the date 1980-01-01, so that equal matrices make equal files.
        archive.writestr(zipfile.ZipInfo(HEADER_MEMBER), text)
        for key, array in arrays.items():
            info = zipfile.ZipInfo(key + _SUFFIX)
            with archive.open(info, "w", force_zip64=True) as member:
                plain = array.view(_stored_dtype(array.dtype))
                np.lib.format.write_array(member, plain, _NPY_VERSION, allow_pickle=False)


class NpzSource:
    """An opened ``.npz`` file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._archive = zipfile.ZipFile(file)
        members = self._archive.infolist()
        self._members = {m.filename: m for m in members}
        if len(self._members) != len(members):
            raise FormatError("a member stands twice in the file.")
        if HEADER_MEMBER not in self._members:
            raise FormatError(
                f"the file has no member {HEADER_MEMBER!r}: it was not written by tvwarray.\n"
                "Load it with the library that wrote it, and convert what it holds."
            )
        for m in members:
            if m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size:
                raise FormatError(f"{m.filename!r} is compressed; members are stored as they are.")
            if m.flag_bits & _ENCRYPTED:
                raise FormatError(f"{m.filename!r} is encrypted.")
            if m.filename != HEADER_MEMBER and not m.filename.endswith(_SUFFIX):
                raise FormatError(f"the file also holds {m.filename!r}, which is no array.")
        if sum(m.file_size for m in members) > size:
            raise FormatError(f"its members claim more than the {size} bytes of the file.")
        header = self._members.pop(HEADER_MEMBER)
        check_header_size(header.file_size)
        self.header = self._archive.read(header)
        self.keys = {name.removesuffix(_SUFFIX) for name in self._members}

    def read(self, key: str, dtype: DType, /) -> HostArray:
        """Return a flat array of the file, provided that it has this dtype."""
        info = self._members[key + _SUFFIX]
        with self._archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version != _NPY_VERSION:
                raise FormatError(f"{key} is a .npy of version {version}, not {_NPY_VERSION}.")
            shape, _, stored = np.lib.format.read_array_header_1_0(
                member, max_header_size=_MAX_NPY_HEADER
            )
            expected = _stored_dtype(dtype)
            if stored.newbyteorder("=") != expected or len(shape) != 1:
                raise FormatError(
                    f"{key} is {stored} of shape {shape}; it must be flat and {expected.name}."
                )
            room = info.file_size - member.tell()
            if shape[0] * stored.itemsize != room:
                raise FormatError(f"{key} claims {shape[0]} values, but has {room} bytes for them.")
            array = read_array(member, shape[0], stored)
        if not stored.isnative:
            array = array.byteswap().view(expected)
        return array.view(dtype)


def _stored_dtype(dtype: DType) -> DType:
    """Return the dtype whose bits stand for `dtype` in a ``.npy``."""
    if dtype == BFLOAT16:
        return UINT16
    return np.dtype(np.uint8) if dtype in EIGHT_BIT_FLOATS else dtype
