"""The command: files in and out, and hostile input; what measures is in ``test_demo.py``.

Axes: the format of the input (nine), the format of the output (four), the kind of fault. Commands
run in this process through ``main``, but for one that must not see this process's streams.
"""

import gzip
import io
import json
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import tvwarray
from tvwarray.__main__ import main
from tvwarray._cli import env, output
from tvwarray._cli.files import open_source

ROWS, COLS = 64, 96
W = np.random.default_rng(3).standard_normal((ROWS, COLS)).astype(np.float32)
PRUNED = tvwarray.sparsify(W, 0.75, permute=False, group_rows=False).toarray()


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; gives status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        status = main([str(a) for a in args])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def model_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors(path, tensors):
    """Write ``{name: (code, array)}`` by the description of the format alone."""
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, (code, array) in tensors.items():
        data = array.tobytes()
        offsets = [len(blob), len(blob) + len(data)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        blob += data
    path.write_bytes(model_bytes(header, blob))


def write_mtx(path, matrix):
    text = io.BytesIO()
    scipy.io.mmwrite(text, matrix.astype(np.float64))
    path.write_bytes(gzip.compress(text.getvalue()) if path.suffix == ".gz" else text.getvalue())


INPUTS = {
    "npy": (".npy", np.save),
    "npz": (".npz", lambda path, a: np.savez_compressed(path, a=a)),
    "scipy": (".npz", lambda path, a: sp.save_npz(path, sp.csr_array(a))),
    "mtx": (".mtx", lambda path, a: write_mtx(path, sp.coo_array(a))),
    "mtx.gz": (".mtx.gz", lambda path, a: write_mtx(path, sp.coo_array(a))),
    "dense mtx": (".mtx", write_mtx),
    "model": (".safetensors", lambda path, a: write_safetensors(path, {"a": ("F32", a)})),
    "tvw npz": (".npz", lambda path, a: tvwarray.save(path, tvwarray.TVWMatrix(a))),
    "tvw safetensors": (".safetensors", lambda path, a: tvwarray.save(path, tvwarray.TVWMatrix(a))),
}


def write_as(folder, kind, array):
    """Write a dense array as an input of some kind; gives the path."""
    suffix, write = INPUTS[kind]
    path = folder / f"in{suffix}"
    write(path, array)
    return path


def assert_one_line(status, err, part):
    assert status == 2
    assert err.startswith("tvwarray: error: ")
    assert err.count("\n") == 1
    assert part in err


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy", ".mtx"])
def test_convert_keeps_every_value(cli, tmp_path, kind, suffix):
    path = write_as(tmp_path, kind, PRUNED)
    status, out, err = cli("convert", path, "out" + suffix)
    assert (status, err) == (0, "")
    assert f"Wrote out{suffix}." in out
    if suffix == ".npy":
        got = np.load("out.npy")
    elif suffix == ".mtx":
        got = scipy.io.mmread("out.mtx", spmatrix=False).toarray()
    else:
        loaded = tvwarray.load("out" + suffix)
        got = (loaded["a"] if isinstance(loaded, dict) else loaded).toarray()
    np.testing.assert_array_equal(got, PRUNED)


@pytest.mark.parametrize("kind", ["npy", "scipy", "tvw npz"])
def test_convert_takes_tile_rows_layout_and_dtype(cli, tmp_path, kind):
    path = write_as(tmp_path, kind, PRUNED)
    options = ("--tile-rows", 16, "--layout", "lossless", "--dtype", "bfloat16")
    assert cli("convert", path, "A.npz", *options)[0] == 0
    A = tvwarray.load("A.npz")
    assert (A.tile_rows, A.dtype.name) == (16, "bfloat16")
    np.testing.assert_array_equal(A.toarray(), PRUNED.astype(ml_dtypes.bfloat16))


def test_convert_casts_a_tvw_file_without_touching_its_layout(cli):
    A = tvwarray.sparsify(W, 0.875, tile_rows=32).T
    tvwarray.save("A.npz", A)
    assert cli("convert", "A.npz", "B.npz", "--dtype", "float64")[0] == 0
    B = tvwarray.load("B.npz")
    assert (B.dtype, B.tile_rows, B.transposed) == (np.float64, 32, True)


@pytest.mark.parametrize(
    ("dtype", "lost"),
    [("float16", 2), ("int8", 3), ("float64", 0), ("bool", 4), ("float8_e5m2", 2)],
)
@pytest.mark.parametrize("kind", ["dense", "csr", "tvw"])
def test_convert_says_how_many_values_a_type_does_not_hold(cli, dtype, lost, kind):
    a = np.zeros((16, 16), np.float32)
    a[0, :5] = 1, 1e6, 1e-9, 2.5, 3
    if kind == "dense":
        np.save("W.npy", a)
    elif kind == "csr":
        sp.save_npz("W.npz", sp.csr_array(a))
    else:
        tvwarray.save("W.npz", tvwarray.TVWMatrix(a))
    name = "W.npy" if kind == "dense" else "W.npz"
    status, out, _ = cli("convert", name, "B.npz", "--dtype", dtype)
    assert status == 0
    assert (f"{name}: {lost} values do not fit {dtype}" in out) == (lost > 0)
    assert ("do not fit" in out) == (lost > 0)


def test_convert_keeps_single_entries_beside_the_tiles(cli):
    a = np.random.default_rng(0).random((256, 256)) < 0.004
    a[:64, :64] = True
    np.save("W.npy", np.where(a, np.float32(2), np.float32(0)))
    assert cli("convert", "W.npy", "A.npz", "--layout", "hybrid")[0] == 0
    A = tvwarray.load("A.npz")
    assert A.remainder.nnz > 0
    np.testing.assert_array_equal(A.toarray(), np.load("W.npy"))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint64", "float16", "complex64"])
def test_every_kind_of_number_reaches_matrix_market(cli, dtype):
    array = (np.eye(16) * 1.7).astype(dtype)
    np.save("in.npy", array)
    assert cli("convert", "in.npy", "out.mtx")[0] == 0
    np.testing.assert_array_equal(scipy.io.mmread("out.mtx", spmatrix=False).toarray(), array)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(cli, tmp_path, monkeypatch):
    np.save("a.npy", PRUNED)
    assert cli("convert", "a.npy", "a.npy")[0] == 0

    def fail(path, array):
        (tmp_path / path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.np, "save", fail)
    assert_one_line(*cli("convert", "a.npy", "a.npy")[::2], "No space left")
    np.testing.assert_array_equal(np.load("a.npy"), PRUNED)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("kind", ["npy", "mtx", "tvw npz"])
def test_prune_is_sparsify(cli, tmp_path, kind):
    path = write_as(tmp_path, kind, W)
    out = cli("prune", path, "A.npz", "--sparsity", 0.75, "--tile-rows", 32)[1]
    want = tvwarray.sparsify(W, 0.75, tile_rows=32)
    np.testing.assert_array_equal(tvwarray.load("A.npz").toarray(), want.toarray())
    assert f"{abs(want.toarray()).sum() / abs(W).sum():.3f}" in out


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {
        "layer.0.weight": ("F32", W),
        "layer.0.bias": ("F32", W[0]),
        "layer.1.weight": ("BF16", W.astype(ml_dtypes.bfloat16)),
        "scale": ("F32", W[0, 0]),
        "positions": ("I64", np.arange(COLS)[None]),
        "exotic": ("F8_E8M0", np.zeros((4, 4), np.uint8)),
        "conv": ("F16", np.zeros((2, 3, 4), np.float16)),
    }
    write_safetensors(path, tensors)
    return path


def test_convert_takes_all_matrices_of_a_model(cli, model):
    out = cli("convert", model, "A.safetensors")[1]
    A = tvwarray.load("A.safetensors")
    assert set(A) == {"layer.0.weight", "layer.1.weight", "positions"}
    np.testing.assert_array_equal(A["layer.0.weight"].toarray(), W)
    np.testing.assert_array_equal(A["layer.1.weight"].toarray(), W.astype(ml_dtypes.bfloat16))
    assert "4 arrays (1-D: 1, 0-D: 1, of F8_E8M0 values: 1, 3-D: 1)" in out


def test_prune_leaves_indices_alone(cli, model):
    out = cli("prune", model, "A.npz", "--sparsity", 0.5)[1]
    assert set(tvwarray.load("A.npz")) == {"layer.0.weight", "layer.1.weight"}
    assert "indices rather than weights: positions" in out
    assert cli("prune", model, "A.npz", "--sparsity", 0.5, "--only", "positions")[0] == 0
    assert set(tvwarray.load("A.npz")) == {"positions"}
    np.savez("in.npz", a=np.eye(16, dtype=int), b=np.eye(16, dtype=int))
    assert_one_line(*cli("prune", "in.npz", "A.npz", "--sparsity", 0.5)[::2], "--only NAME")


def test_only_picks_by_pattern(cli, model):
    assert cli("convert", model, "one.npy", "--only", "layer.0.*")[0] == 0
    np.testing.assert_array_equal(np.load("one.npy"), W)
    status, _, err = cli("convert", model, "one.npy", "--only", "*.weight")
    assert_one_line(status, err, "takes one matrix, not 2")
    assert_one_line(*cli("info", model, "--only", "nothing")[::2], "a name like nothing")


def test_bfloat16_has_no_npy(cli, model):
    command = ("convert", model, "one.npy", "--only", "layer.1.*")
    assert_one_line(*cli(*command)[::2], "--dtype float32")
    assert cli(*command, "--dtype", "float32")[0] == 0


def test_tensors_are_read_one_at_a_time(model):
    """A damaged tensor does not keep the others from being read."""
    source = open_source(str(model))
    model.write_bytes(model.read_bytes()[:-100])
    assert source.matrices[0].read().shape == (ROWS, COLS)
    with pytest.raises(tvwarray.FormatError, match="F8_E8M0 values, for which NumPy has no type"):
        next(e for e in source.others if e.name == "exotic").read()


def test_names_cannot_write_to_the_terminal(cli, tmp_path):
    write_safetensors(tmp_path / "m.safetensors", {"a\n\x1b[2J": ("F32", W), "b": ("F32", W)})
    assert "a??[2J" in cli("info", "m.safetensors")[1]
    assert_one_line(*cli("convert", "m.safetensors", "A.npz")[::2], "cannot name a matrix")


def test_info_of_a_tvw_file(cli):
    A = tvwarray.sparsify(W, 0.75, tile_rows=32)
    tvwarray.save("A.npz", A.T)
    status, out, err = cli("info", "A.npz")
    assert (status, err) == (0, "")
    for part in (f"{COLS}x{ROWS} float32", "2 of up to 32 rows", "transposed", f"{A.nnz:,}", "2:4"):
        assert part in out


def test_matrices_without_entries(cli):
    np.save("zeros.npy", np.zeros((16, 16)))
    assert "1.000" in cli("prune", "zeros.npy", "A.npz", "--sparsity", 0.5)[1]
    tvwarray.save("zeros.npz", tvwarray.TVWMatrix((8, 8)))
    assert "nonzeros   0 (0 %)" in cli("info", "zeros.npz")[1]
    np.save("none.npy", np.zeros((0, 5)))
    assert cli("info", "none.npy")[0] == 0
    tvwarray.save("two.npz", {"a": tvwarray.TVWMatrix((0, 8)), "b": tvwarray.TVWMatrix((8, 8))})
    assert "2 matrices" in cli("info", "two.npz")[1]


@pytest.mark.parametrize("kind", ["npy", "mtx", "model"])
def test_info_tells_what_form_a_matrix_has(cli, tmp_path, kind):
    two_four = np.where(np.arange(COLS) % 4 < 2, W, 0)
    for array, form in ((two_four, "2:4 as"), (PRUNED, "TVW as"), (W, "neither 2:4 nor")):
        path = write_as(tmp_path, kind, array)
        out = cli("info", path)[1]
        assert form in out
        assert f"{np.count_nonzero(array):,}" in out
    assert ("name       a" in out) == (kind == "model")


def test_info_of_a_model_is_a_line_a_tensor(cli, model, monkeypatch):
    """With a progress bar on a terminal, if tqdm is there."""
    status, out, err = cli("info", model)
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["layer.0.weight", "64x96", "float32", "100"] in [line[:4] for line in lines]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "matrix" in cli("info", model)[2]
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli("info", model)[1:] == (out, "")


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz_bytes(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return file.getvalue()


GOOD = npy_bytes(np.ones((4, 4)))
FIELD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}

HOSTILE = {
    **{f"text{suffix}": (b"hello, world\n", "error") for suffix, _ in INPUTS.values()},
    "three.npy": (npy_bytes(np.ones((2, 2, 2))), "is 3-D"),
    "pickle.npy": (npy_bytes(np.array([[{}]], object)), "of object values"),
    "short.npy": (GOOD[:-8], "short.npy"),
    "version.npy": (b"\x93NUMPY\x09\x00" + GOOD[8:], "damaged"),
    "short.npz": (npz_bytes(a__npy=GOOD)[:-30], "damaged"),
    "none.npz": (npz_bytes(), "none of its 0 arrays"),
    "readme.npz": (npz_bytes(readme="hello"), "no array"),
    "scipy.npz": (npz_bytes(format__npy=GOOD, shape__npy=GOOD, data__npy=GOOD), "damaged"),
    "tvw.npz": (npz_bytes(tvwarray__json="{}"), "no version"),
    "tiny.safetensors": (b"abc", "truncated"),
    "list.safetensors": (model_bytes([]), "no JSON object"),
    "json.safetensors": (model_bytes(b"{nonsense"), "damaged"),
    "fields.safetensors": (model_bytes({"a": {"dtype": "F32"}}), "data_offsets"),
    "long.safetensors": (model_bytes({"a": FIELD}), "make no sense"),
    "shape.safetensors": (model_bytes({"a": FIELD | {"shape": 4}}, b"x" * 16), "make no sense"),
    "size.safetensors": (model_bytes({"a": FIELD | {"shape": [3, 3]}}, b"x" * 16), "takes 36"),
    "notes.txt": (b"hello, world\n", "the suffix is none of"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_make_one_line(cli, tmp_path, name):
    data, part = HOSTILE[name]
    (tmp_path / name).write_bytes(data)
    status, _, err = cli("info", name)
    assert_one_line(status, err, part)
    assert name in err


ARGUMENTS = {
    "no command": ([], "COMMAND"),
    "unknown command": (["frob"], "frob"),
    "missing file": (["info", "nope.npz"], "nope.npz: No such file"),
    "folder": (["info", "folder.npz"], "no regular file"),
    "sparsity too low": (["prune", "W.npy", "A.npz", "--sparsity", "0.2"], "0.2"),
    "sparsity NaN": (["prune", "W.npy", "A.npz", "--sparsity", "nan"], "nan"),
    "unknown pattern": (["prune", "W.npy", "A.npz", "--sparsity", ".5", "--pattern", "x"], "'x'"),
    "tile rows": (["convert", "W.npy", "A.npz", "--tile-rows", "3"], "tile_rows is 3"),
    "crowded": (["convert", "W.npy", "A.npz", "--layout", "exact"], "2:4 group"),
    "output suffix": (["convert", "W.npy", "A.txt"], "A.txt: the suffix"),
    "output folder": (["convert", "W.npy", "nowhere/A.npz"], "no folder nowhere"),
    "dtype": (["convert", "W.npy", "A.npz", "--dtype", "foo"], "'foo'"),
    "shape": (["bench", "--shape", "12"], "ROWSxCOLS"),
    "batch": (["bench", "--n", "0"], "--n is 0"),
    "threads": (["bench", "--threads", "0"], "--threads is 0"),
    "not the model": (["demo", "--weights", "W.npy"], "all-MiniLM-L6-v2"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_bad_arguments_make_one_line(cli, tmp_path, case):
    np.save("W.npy", W)
    (tmp_path / "folder.npz").mkdir()
    arguments, part = ARGUMENTS[case]
    status, _, err = cli(*arguments)
    assert_one_line(status, err, part)
    assert not (tmp_path / "A.npz").exists()


def test_debug_shows_where_an_error_comes_from(cli):
    assert "Traceback" in cli("info", "nope.npz", "--debug")[2]


ERRORS = [
    (MemoryError(), 2, "error: not enough memory"),
    (MemoryError("1 TiB"), 2, "error: not enough memory (1 TiB)"),
    (OSError(28, "No space left on device"), 2, "error: No space left on device"),
    (OSError(5, "Input/output error", "a.mtx"), 2, "error: a.mtx: Input/output error"),
    (tvwarray.BackendError("no backend:\n  cpu: x\nCast."), 2, "error: no backend: cpu: x Cast."),
    (ValueError("\x1b[2J"), 2, "error: ?[2J"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize(("error", "status", "line"), ERRORS)
def test_every_error_is_one_line(cli, tmp_path, monkeypatch, error, status, line):
    """Where a command fails, and where a reader does: faults of the machine are passed on."""

    def fail(args, **options):
        raise error

    monkeypatch.setattr(env, "run", fail)
    assert cli("env") == (status, "", f"tvwarray: {line}\n")
    (tmp_path / "a.mtx").write_bytes(b"")
    monkeypatch.setattr(scipy.io, "mmread", fail)
    got, _, err = cli("info", "a.mtx")
    assert (got, err.count("\n")) == (status, 1)
    assert err == f"tvwarray: {line}\n" or isinstance(error, RuntimeError | ValueError)


def test_python_m_tvwarray_and_a_closed_pipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `-m` would import the source folder from inside a clone
    command = [sys.executable, "-m", "tvwarray"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "tvwarray prune W.npy A.npz --sparsity 0.75" in done.stdout
    with subprocess.Popen(
        [*command, "env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["demo", "info", "convert", "prune", "bench", "env"])
def test_help_of_every_command(cli, command):
    status, out, err = cli(command, "--help")
    assert (status, err) == (0, "")
    assert f"tvwarray {command}" in out


def test_arguments_default_to_those_of_the_process(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tvwarray", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"tvwarray {tvwarray.__version__}\n"
