"""Files that nobody trusts: damaged, foreign, forged. Each is a `FormatError`, and a cheap one.

Axes: container x kind of damage. A damaged file may also load, if what it says is a legal matrix.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import strategies
from hypothesis import given
from hypothesis import strategies as st
from matrix_files import (
    SUFFIXES,
    example,
    loaded,
    npy,
    npz,
    npz_members,
    safetensors_header,
    saved,
    with_arrays,
    with_header,
    with_safetensors_header,
)

from tvwarray import FormatError, TVWStorage
from tvwarray._io import Record, load_storage, save_storage
from tvwarray._io.header import read_array

both = pytest.mark.parametrize("suffix", SUFFIXES)


# ---------------------------------------------------------------- damage


@both
def test_every_truncation_is_noticed(suffix):
    contents = saved(suffix, {"": Record(example())})
    for length in range(len(contents)):
        with pytest.raises(FormatError):
            loaded(suffix, contents[:length])


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw a function that flips a bit, overwrites, cuts out or inserts."""
    kind = draw(st.sampled_from(["flip", "overwrite", "cut", "insert"]))
    place, length = draw(st.floats(0, 1)), draw(st.integers(1, 100))
    patch = draw(st.binary(min_size=1, max_size=8))

    def damage(contents: bytes) -> bytes:
        at = int(place * max(len(contents) - 1, 0))
        before, after = contents[:at], contents[at:]
        if kind == "flip":
            return before + bytes(b ^ 1 << patch[0] % 8 for b in after[:1]) + after[1:]
        if kind == "overwrite":
            return before + patch + after[len(patch) :]
        if kind == "cut":
            return before + after[length:]
        return before + patch + after

    return damage


@functools.cache
def victims(suffix: str) -> list[bytes]:
    two = {"a": Record(example("complex128", None)), "b": Record(example("float8_e5m2"))}
    return [saved(suffix, {"": Record(example("bool"))}), saved(suffix, two)]


@both
@given(data=st.data())
def test_damage_is_noticed_or_harmless(suffix, data):
    """Either an error that names the file, or matrices that keep every rule."""
    contents = data.draw(st.sampled_from(victims(suffix)))
    for damage in data.draw(st.lists(damages(), min_size=1, max_size=3)):
        contents = damage(contents)
    try:
        records = loaded(suffix, contents)
    except FormatError as e:
        assert str(e).partition(": ")[0].endswith("a" + suffix)  # noqa: PT017 - may not be raised
        return
    for storage, _ in records.values():
        storage.check()


@both
@given(contents=st.binary(max_size=200))
def test_any_bytes_are_refused(suffix, contents):
    with pytest.raises(FormatError, match=r"a\.(npz|safetensors): "):
        loaded(suffix, contents)


# ---------------------------------------------------------------- headers and arrays


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [5]}, "shape is"),
        ({"shape": [5, 20, 1]}, "shape is"),
        ({"shape": [5.0, 20]}, "shape is"),
        ({"shape": [True, 20]}, "must be integers|shape is"),
        ({"shape": [5, 2**31]}, "shape is"),
        ({"shape": [-5, 20]}, "shape is"),
        ({"shape": "52"}, "shape is"),
        ({"shape": [4, 20]}, "row 4 is outside"),
        ({"shape": [5, 19]}, "column 19 is outside"),
        ({"tile_rows": 0}, "tile_rows is 0"),
        ({"tile_rows": "16"}, "tile_rows is '16'"),
        ({"tile_rows": True}, "tile_rows is True"),
        ({"vector": [1, 4]}, "vector is"),
        ({"vector": [2.0, 4]}, "must be integers"),
        ({"vector": None}, "also holds 'meta'"),
        ({"dtype": "object"}, "cannot hold 'object'"),
        ({"dtype": ["float16"]}, "cannot hold"),
        ({"dtype": "bfloat16"}, "data is"),
        ({"dtype": "float32"}, "data is"),
        ({"transposed": 1}, "transposed is 1"),
        ({"more": 1}, "the fields must be"),
    ],
)
def test_what_a_header_says_of_a_matrix(suffix, changes, message):
    with pytest.raises(FormatError, match=message):
        loaded(suffix, with_header(suffix, lambda h: h["matrices"][""].update(changes)))


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(version="1"),
        lambda h: h.update(version=True),
        lambda h: h.update(version=0),
        lambda h: h.pop("version"),
        lambda h: h.pop("matrices"),
        lambda h: h.update(matrices=[]),
        lambda h: h.update(more=1),
        lambda h: h["matrices"].update(b=1),
        lambda h: h["matrices"][""].pop("dtype"),
        lambda h: h["matrices"].update({"../../etc/passwd": h["matrices"].pop("")}),
        lambda h: h["matrices"].update(b=h["matrices"][""]),
        lambda h: h["matrices"].clear(),
    ],
)
def test_headers_that_are_none(suffix, change):
    with pytest.raises(FormatError):
        loaded(suffix, with_header(suffix, change))


@both
def test_a_newer_file_asks_for_an_upgrade(suffix):
    with pytest.raises(FormatError, match=r"version 2; .* up to 1\.\nUpgrade tvwarray"):
        loaded(suffix, with_header(suffix, lambda h: h.update(version=2, anything="else")))


nothing = np.empty(0, np.int32)


@both
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"row_indptr": np.array([0, 2, 3], np.int32)}, "ends at 3"),
        ({"row_indptr": nothing}, "must begin with 0"),
        ({"row_indices": np.array([4, 0, 1, 4], np.int32)}, "again in tile"),
        ({"col_indptr": np.array([0, 8, 32], np.int32)}, "multiple of 16"),
        ({"col_indices": np.full(32, -2, np.int32)}, "outside"),
        ({"col_indices": np.full(32, -1, np.int32)}, "padding holds zeros"),
        ({"data": np.ones(31, np.float16)}, "make 32"),
        ({"meta": np.zeros(4, np.uint16)}, "ascending and distinct"),
        ({"meta": np.full(5, 0x4444, np.uint16)}, "make 4"),
        (
            {  # int32 differences of these offsets look harmless
                "col_indptr": np.array([0, 2**31 - 16, -(2**31), -16, 0], np.int32),
                "col_indices": nothing,
                "row_indptr": np.zeros(5, np.int32),
                "row_indices": nothing,
                "data": np.empty(0, np.float16),
                "meta": np.empty(0, np.uint16),
            },
            "falls",
        ),
    ],
)
def test_arrays_that_break_a_rule(suffix, arrays, message):
    with pytest.raises(FormatError, match=message):
        loaded(suffix, with_arrays(suffix, **arrays))


@both
def test_a_bool_is_0_or_1(suffix):
    contents = saved(suffix, {"": Record(example("bool"))})
    ones = b"\1" * 6
    assert contents.count(ones) > 1
    if suffix == ".npz":
        members = npz_members()
        header = members["tvwarray.json"].replace(b"float16", b"bool")
        data = npy(np.full(32, 2, np.uint8), descr="|b1")
        beside = npy(np.ones(3, np.uint8), descr="|b1")
        changed = {"data.npy": data, "remainder_data.npy": beside}
        contents = npz({**members, "tvwarray.json": header, **changed})
    with pytest.raises(FormatError, match="bytes other than 0 and 1"):
        loaded(suffix, contents.replace(ones, b"\2" * 6))


# ---------------------------------------------------------------- tricks


class Trap:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was executed",)


def forged_npz() -> Iterator[tuple[str, bytes, str]]:
    """Yield a name, the file and the message it gets."""
    good = npz_members()
    values = example().data
    traps, foreign, plain = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(traps, np.array([Trap()] * 32), allow_pickle=True)
    np.savez(foreign, data=values)
    np.save(plain, values)

    def data(contents: bytes) -> bytes:
        return npz({**good, "data.npy": contents})

    def header(contents: bytes) -> bytes:
        return npz({**good, "tvwarray.json": contents})

    def patched(before: bytes, after: bytes) -> bytes:
        assert before in npz(good)
        return npz(good).replace(before, after)

    def raw_npy(version: bytes, length: bytes, text: bytes) -> bytes:
        return data(b"\x93NUMPY" + version + length + text)

    directory = b"PK\1\2\x14\3\x14\0"  # a central entry up to its flags, then the compression
    size = struct.pack("<L", len(good["data.npy"]))
    yield "pickle", pickle.dumps(Trap()), "not a zip"
    yield "pickle as member", data(pickle.dumps(Trap())), "damaged"
    yield "object array", data(traps.getvalue()), "object"
    yield "npy", plain.getvalue(), "not a zip"
    yield "foreign npz", foreign.getvalue(), "not written by tvwarray"
    yield "empty zip", npz({}), "not written by tvwarray"
    yield "deflated", npz(good, zipfile.ZIP_DEFLATED), "is compressed"
    bomb = npz({**good, "data.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    yield "zip bomb", bomb, "is compressed"
    yield (
        "unknown compression",
        patched(directory + b"\0\0\0\0", directory + b"\0\0\x63\0"),
        "compressed",
    )
    yield "encrypted", patched(directory + b"\0\0", directory + b"\1\0"), "encrypted"
    yield "stands twice", npz([*good.items(), ("data.npy", npy(values))]), "stands twice"
    yield "missing", npz({k: v for k, v in good.items() if k != "meta.npy"}), "lacks 'meta'"
    yield "extra array", npz({**good, "more.npy": npy(values)}), "also holds 'more'"
    yield "extra member", npz({**good, "readme.txt": b""}), "no array"
    yield "path", npz({**good, "../../data.npy": npy(values)}), "also holds"
    yield "absolute path", npz({**good, "/etc/passwd.npy": npy(values)}), "also holds"
    yield "folder", npz({**good, "data.npy/": b""}), "no array"
    yield "terabytes", data(npy(values, shape=(10**12,))), "claims 1000000000000 values"
    yield "count beyond 64 bits", data(npy(values, shape=(2**64 + 32,))), "claims"
    yield "negative count", data(npy(values, shape=(-32,))), "claims -32"
    yield "too few", data(npy(values, shape=(31,))), "claims 31"
    yield "two dimensions", data(npy(values, shape=(4, 8))), "flat"
    yield "no dimensions", data(npy(values[:1], shape=())), "flat"
    yield "other dtype", data(npy(values.view(np.int16))), "float16"
    yield "structured", data(npy(values, descr=[("a", "O"), ("b", "<f2", (9, 9))])), "float16"
    yield "short data", data(npy(values)[:-1]), "has 63 bytes"
    yield "npy of version 2", raw_npy(b"\2\0", struct.pack("<L", 10**9), b""), "version"
    yield "long npy header", raw_npy(b"\1\0", b"\xff\xff", b"(" * 65535), "damaged"
    yield "nested npy header", raw_npy(b"\1\0", b"\xe8\3", b"(" * 1000), "damaged"
    yield "code as npy header", raw_npy(b"\1\0", b"\x12\0", b"__import__('os')  "), "damaged"
    yield "bad checksum", patched(values.tobytes(), values[::-1].tobytes()), "CRC"
    yield "huge member", patched(size + size, b"\xfe\xff\xff\xff" * 2), "claim more"
    yield "nested header", header(b"[" * 10**5), "damaged"
    yield "UTF-16 header", header('{"version": 1}'.encode("utf-16")), "damaged"
    yield "header of digits", header(b'{"version": ' + b"9" * 10**4 + b"}"), "damaged|version"
    yield "header says it twice", header(b'{"version": 1, "version": 1}'), "stands twice"
    yield "huge header", header(b" " * (2**23 + 1)), "at most 8388608"


def forged_safetensors() -> Iterator[tuple[str, bytes, str]]:
    """Yield a name, the file and the message it gets."""
    good = saved(".safetensors", {"": Record(example())})
    header = safetensors_header(good)
    begin, end = header["data"]["data_offsets"]
    last = max(t["data_offsets"][1] for name, t in header.items() if name != "__metadata__")
    empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}

    def outer(**changes: Any) -> bytes:
        return with_safetensors_header({**header, **changes})

    def data(**changes: Any) -> bytes:
        return outer(data={**header["data"], **changes})

    def without(name: str, **more: Any) -> bytes:
        return with_safetensors_header({k: v for k, v in header.items() if k != name} | more)

    twice = json.dumps(header)[:-1] + ', "data": ' + json.dumps(header["data"]) + "}"
    plain = {"data": np.ones(3)}
    tera = 2 * 10**12
    yield "pickle", pickle.dumps(Trap()), "a header of"
    yield "foreign", safetensors.numpy.save(plain), "not written by tvwarray"
    yield "foreign metadata", safetensors.numpy.save(plain, {"format": "np"}), "not written"
    yield "no metadata", without("__metadata__"), "not written by tvwarray"
    yield "metadata a number", outer(__metadata__=1), "not written"
    yield "header a list", with_safetensors_header([]), "not written"
    yield "surrogates", outer(__metadata__={"tvwarray": "\ud800"}), "damaged"
    yield "endless header", struct.pack("<Q", 2**64 - 1) + b"{}", "a header of"
    yield "long header", struct.pack("<Q", 2**23 + 1) + bytes(2**23 + 1), "at most 8388608"
    yield "nested header", with_safetensors_header(b'{"a":' * 10**5), "damaged"
    yield "name twice", with_safetensors_header(twice.encode()), "stands twice"
    yield "terabytes", data(shape=[tera // 2], data_offsets=[begin, begin + tera]), "overlap"
    yield "terabytes behind", outer(z={**empty, "data_offsets": [last, tera]}), "claim"
    yield "negative offsets", data(data_offsets=[-2, 62]), "no sense"
    yield "offsets reversed", data(data_offsets=[end, begin]), "no sense"
    yield "fractional offsets", data(data_offsets=[begin, float(end)]), "no sense"
    yield "offsets of bools", data(data_offsets=[False, True]), "no sense"
    yield "three offsets", data(data_offsets=[0, 1, 2]), "two data_offsets"
    yield "no offsets", outer(data={}), "two data_offsets"
    yield "tensor a list", outer(data=[]), "two data_offsets"
    yield "overlap", data(data_offsets=[begin - 2, end]), "overlap"
    yield "gap", data(data_offsets=[begin + 2, end]), "gaps"
    yield "trailing bytes", good + b"\0", "claim"
    yield "wrong shape", data(shape=[31]), "of shape"
    yield "shape of bools", data(shape=[True]), "no sense"
    yield "shape a number", data(shape=32), "no sense"
    yield "two dimensions", data(shape=[4, 8]), "of shape"
    yield "wrong dtype", data(dtype="BF16"), "'F16'"
    yield "unknown dtype", data(dtype={"F16": 1}), "'F16'"
    yield "extra tensor", outer(more=empty), "also holds 'more'"
    yield "missing tensor", without("meta", m=header["meta"]), "lacks 'meta'"


FORGED = {
    f"{suffix[1:]}: {name}": (suffix, contents, message)
    for suffix, forged in ((".npz", forged_npz), (".safetensors", forged_safetensors))
    for name, contents, message in forged()
}


@pytest.mark.parametrize("name", FORGED)
def test_tricks(name):
    """No trick gets more than its error, nor memory out of proportion."""
    suffix, contents, message = FORGED[name]
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as e:
            loaded(suffix, contents)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    str(e.value).encode()  # fit to be printed
    assert peak < 2**18 + 30 * len(contents)


def test_members_that_share_their_bytes():
    """Many names for one run of bytes would make memory from nothing: the overlapping zip bomb."""
    file = io.BytesIO(npz({"tvwarray.json": b"{}", "a.npy": npy(np.zeros(10**5))}))
    with zipfile.ZipFile(file, "a") as archive:
        info = archive.getinfo("a.npy")
        for i in range(100):
            alias = zipfile.ZipInfo(f"{i}.npy")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(alias, field, getattr(info, field))
            archive.filelist.append(alias)
        archive._didModify = True
    with pytest.raises(FormatError, match="claim more"):
        loaded(".npz", file.getvalue())


def test_a_file_that_shrinks_while_it_is_read():
    with pytest.raises(FormatError, match="ends too early"):
        read_array(io.BytesIO(b"abc"), 4, np.dtype(np.uint8))


@both
@pytest.mark.parametrize("dtype", ["float8_e5m2", "float64"])
def test_loading_takes_memory_in_proportion(tmp_path, suffix, dtype):
    rows, slots = 256, 4096
    storage = TVWStorage(
        shape=(rows, slots),
        tile_rows=rows,
        vector=(2, 4),
        row_indptr=np.array([0, rows], np.int32),
        row_indices=np.arange(rows, dtype=np.int32),
        col_indptr=np.array([0, slots], np.int32),
        col_indices=np.arange(slots, dtype=np.int32),
        data=np.ones(rows * slots // 2).astype(strategies.dtype(dtype)),
        meta=np.full(rows * slots // 16, 0x4444, np.uint16),
    )
    path = tmp_path / f"a{suffix}"
    save_storage(path, storage)
    assert path.stat().st_size < storage.nbytes + 4096
    del storage
    tracemalloc.start()
    try:
        got = load_storage(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.storage.nbytes <= peak < 4 * path.stat().st_size
