"""Matrix files: what is saved is loaded, other programs read it, and a write is whole or nothing.

Axes: container x dtype x vector x the freedoms of `strategies.storages`. Equality is of every bit.
What hostile files do is in `test_io_untrusted`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from matrix_files import (
    SUFFIXES,
    assert_same,
    example,
    loaded,
    npy,
    npz,
    npz_members,
    safetensors_header,
    saved,
)
from strategies import ALL_DTYPES, seeds, storages

from tvwarray import FormatError, TVWStorage, _io
from tvwarray._io import Record, load_storage, load_storages, save_storage, save_storages
from tvwarray._storage import ARRAY_FIELDS

DATA = Path(__file__).with_name("data")

both = pytest.mark.parametrize("suffix", SUFFIXES)
every_dtype = pytest.mark.parametrize("dtype", ALL_DTYPES)


def with_any_bits(storage: TVWStorage, seed: int) -> TVWStorage:
    """Put random bits in place of all values but zeros: every NaN, signaling ones too."""
    kept = storage.data.view(np.uint8).reshape(-1, storage.dtype.itemsize).any(axis=1)
    rng = np.random.default_rng(seed)
    octets = rng.integers(0, 2 if storage.dtype == bool else 256, storage.data.nbytes, np.uint8)
    data = octets.view(storage.dtype)
    data[~kept] = 0
    return replace(storage, data=data)


# ---------------------------------------------------------------- round trips


@both
@given(storage=st.builds(with_any_bits, storages(), seeds), transposed=st.booleans())
def test_round_trip_keeps_every_bit(suffix, storage, transposed):
    records = loaded(suffix, saved(suffix, {"": Record(storage, transposed)}))
    assert list(records) == [""]
    assert records[""].transposed is transposed
    records[""].storage.check()
    assert_same(records[""].storage, storage)


@both
@every_dtype
@pytest.mark.parametrize("vector", [(2, 4), None])
def test_every_dtype(dtype, vector, suffix):
    storage = example(dtype, vector)
    storage.check()
    assert_same(loaded(suffix, saved(suffix, {"": Record(storage)}))[""].storage, storage)


parts = st.text("aZ09_.-é: ", min_size=1).filter(lambda s: s not in (".", ".."))
names_of_matrices = st.lists(parts, min_size=1, max_size=3).map("/".join)


@both
@given(names=st.lists(names_of_matrices, min_size=1, max_size=4))
def test_many_matrices_in_one_file(suffix, names):
    """Names that look like those of arrays stay apart."""
    names = dict.fromkeys([*names, "", "data", "a.data", f"{names[0]}.meta"])
    records = {
        name: Record(example(dtype, None if i % 3 else (2, 4)), i % 2 == 0)
        for i, (name, dtype) in enumerate(zip(names, ALL_DTYPES, strict=False))
    }
    got = loaded(suffix, saved(suffix, records))
    assert list(got) == list(records)
    for name, (storage, transposed) in got.items():
        assert transposed == records[name].transposed
        assert_same(storage, records[name].storage)


@both
def test_a_file_of_no_matrices(suffix):
    assert loaded(suffix, saved(suffix, {})) == {}


@both
def test_one_matrix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_storage(path, example(), transposed=True)
    storage, transposed = load_storage(str(path))
    assert transposed is True
    assert_same(storage, example())
    save_storages(path, {"a": Record(example()), "b": Record(example())})
    with pytest.raises(FormatError, match="holds 2 matrices, not one"):
        load_storage(path)


@both
def test_equal_matrices_make_equal_files(suffix):
    records = {name: Record(example()) for name in ("x", "y", "z")}
    assert len({saved(suffix, records) for _ in range(5)}) == 1


@both
def test_files_of_version_1_are_read(suffix):
    """The files were written by tvwarray 0.1; every later one reads them."""
    got = load_storages(DATA / f"version_1{suffix}")
    expected = {
        "weight": Record(example("bfloat16"), True),
        "block/0.weight": Record(example("complex128", None), False),
    }
    assert list(got) == list(expected)
    for name, (storage, transposed) in got.items():
        assert transposed == expected[name].transposed
        assert_same(storage, expected[name].storage)


@both
def test_arrays_of_other_libraries_are_copied_to_the_host(suffix):
    strict = example("float32").mapped(array_api_strict.asarray)
    got = loaded(suffix, saved(suffix, {"": Record(strict)}))
    assert_same(got[""].storage, example("float32"))


@both
def test_strided_arrays_are_saved_whole(suffix):
    strided = example().mapped(lambda x: np.repeat(x, 2)[::2])
    assert_same(loaded(suffix, saved(suffix, {"": Record(strided)}))[""].storage, example())


# ---------------------------------------------------------------- other readers and writers


@every_dtype
def test_safetensors_reads_what_we_write(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    save_storage(path, example(dtype))
    expected = example(dtype).data
    tensors = dict(safetensors.deserialize(path.read_bytes()))
    assert tensors.keys() == set(ARRAY_FIELDS)
    assert bytes(tensors["data"]["data"]) == expected.tobytes()
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["tvwarray"])["version"] == 1
        if not dtype.startswith("float8"):  # which the NumPy side of safetensors cannot read
            got = file.get_tensor("data")
            if dtype == "complex128":
                got = got[:, 0] + 1j * got[:, 1]
            assert got.dtype == expected.dtype
            assert (got == expected).all()


def test_we_read_what_safetensors_writes():
    """Another tool may add metadata and order tensors its way, as long as ours stay."""
    header = safetensors_header(saved(".safetensors", {"": Record(example())}))
    tensors = {field: getattr(example(), field) for field in ARRAY_FIELDS}
    contents = safetensors.numpy.save(tensors, {**header["__metadata__"], "format": "pt"})
    assert_same(loaded(".safetensors", contents)[""].storage, example())


@every_dtype
def test_numpy_reads_what_we_write(tmp_path, dtype):
    path = tmp_path / "a.npz"
    save_storage(path, example(dtype))
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(file["tvwarray.json"])["version"] == 1
        for field in ARRAY_FIELDS:
            assert file[field].tobytes() == getattr(example(dtype), field).tobytes()


def test_npz_of_the_other_byte_order():
    members = npz_members()
    for name in members.keys() - {"tvwarray.json"}:
        array = np.load(io.BytesIO(members[name]))
        members[name] = npy(array.astype(array.dtype.newbyteorder("S")))
    assert_same(loaded(".npz", npz(members))[""].storage, example())


def test_safetensors_on_a_big_endian_machine(monkeypatch):
    """Simulated: the bytes are swapped on the way out and again on the way in."""
    contents = saved(".safetensors", {"": Record(example())})
    monkeypatch.setattr(sys, "byteorder", "big")
    swapped = saved(".safetensors", {"": Record(example())})
    assert swapped != contents
    assert safetensors_header(swapped) == safetensors_header(contents)
    assert_same(loaded(".safetensors", swapped)[""].storage, example())


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["a", "a.pt", "a.npz.gz", ".npz", "a.safetensors.bak"])
def test_unknown_suffixes(tmp_path, name):
    with pytest.raises(FormatError, match=r"ends in \.npz or \.safetensors"):
        load_storages(tmp_path / name)
    with pytest.raises(FormatError, match=r"ends in \.npz or \.safetensors"):
        save_storage(tmp_path / name, example())


def test_suffixes_in_capitals(tmp_path):
    save_storage(tmp_path / "A.NPZ", example())
    assert_same(load_storage(tmp_path / "A.NPZ").storage, example())


@both
def test_what_the_system_refuses_stays_an_oserror(tmp_path, suffix):
    with pytest.raises(FileNotFoundError):
        load_storages(tmp_path / f"missing{suffix}")
    with pytest.raises(FileNotFoundError):
        save_storage(tmp_path / "missing" / f"a{suffix}", example())
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(FormatError, match="no regular file"):
        load_storages(folder)
    with pytest.raises(OSError, match="folder"):
        save_storage(folder, example())
    assert os.listdir(tmp_path) == [folder.name]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), OSError),
        (MemoryError(), MemoryError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.EINVAL, "Invalid argument"), FormatError),
        (RecursionError(), FormatError),
    ],
)
def test_only_what_a_file_can_cause_is_a_format_error(tmp_path, monkeypatch, error, expected):
    def fail(_: bytes) -> None:
        raise error

    save_storage(tmp_path / "a.npz", example())
    monkeypatch.setattr(_io, "parse_header", fail)
    with pytest.raises(expected) as e:
        load_storages(tmp_path / "a.npz")
    assert error in (e.value, e.value.__cause__)


@both
@pytest.mark.parametrize(
    "name", ["..", "a/../b", "/a", "a/", "a//b", "a\\b", "a\0", "\n", "\ud800", 1]
)
def test_names_that_cannot_be_stored(tmp_path, suffix, name):
    with pytest.raises(FormatError, match="cannot name a matrix"):
        save_storages(tmp_path / f"a{suffix}", {name: Record(example())})
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- whole or nothing


@both
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, suffix, error, step):
    path = tmp_path / f"a{suffix}"
    save_storage(path, example())
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise error

    if step == "write":
        container = _io._CONTAINERS[suffix]

        def write(*args: Any) -> None:
            container.write(*args)
            fail()

        monkeypatch.setitem(_io._CONTAINERS, suffix, container._replace(write=write))
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_storage(path, example("float64"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


KILLED = """
import os, sys
from tvwarray._io import load_storage, save_storage

storage, _ = load_storage(sys.argv[1])
setattr(os, sys.argv[2], lambda *_: os._exit(9))
save_storage(sys.argv[1], storage, transposed=True)
"""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_killed_writer_leaves_the_old_file(tmp_path, step):
    path = tmp_path / "a.safetensors"
    save_storage(path, example())
    before = path.read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, path, step], check=False, cwd=path.parent
    )
    assert killed.returncode == 9
    assert path.read_bytes() == before
    save_storage(path, example("float64"))
    assert_same(load_storage(path).storage, example("float64"))


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, steps, replace_file = tmp_path / "a.npz", [], os.replace

    def replace_and_note(source: str, target: str) -> None:
        steps.append("replace")
        replace_file(source, target)

    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(os.fstat(fd).st_size))
    monkeypatch.setattr(os, "replace", replace_and_note)
    save_storage(path, example())
    assert steps == [path.stat().st_size, "replace"]


@both
def test_a_broken_matrix_is_not_saved(tmp_path, suffix):
    broken = example().mapped(lambda x: x[:-1])
    with pytest.raises(FormatError, match="matrix 'b': "):
        save_storages(tmp_path / f"a{suffix}", {"a": Record(example()), "b": Record(broken)})
    assert not os.listdir(tmp_path)


@both
def test_too_many_matrices_for_one_header(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(_io.header, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(FormatError, match="Spread the matrices over several files"):
        save_storages(tmp_path / f"a{suffix}", {str(i): Record(example()) for i in range(20)})
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions(tmp_path):
    path = tmp_path / "a.npz"
    old = os.umask(0o027)
    try:
        save_storage(path, example())
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        save_storage(path, example())
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_links_are_followed(tmp_path):
    (tmp_path / "models").mkdir()
    link, target = tmp_path / "link.npz", tmp_path / "models" / "a.npz"
    link.symlink_to(target)
    save_storage(link, example())
    assert link.is_symlink()
    assert_same(load_storage(target).storage, example())
    assert os.listdir(tmp_path / "models") == ["a.npz"]
