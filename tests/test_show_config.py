"""`show_config` and ``tvwarray env``: the same facts, as text and as data."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import tvwarray
from tvwarray import _machine, _show_config
from tvwarray.__main__ import main


def test_text_and_data_tell_the_same(capsys, monkeypatch):
    monkeypatch.setenv("TVWARRAY_NUM_THREADS", "3")
    config = tvwarray.show_config(mode="dicts")
    assert tvwarray.show_config() is None
    text = capsys.readouterr().out
    assert list(config) == ["versions", "processor", "backends"]
    for section, entries in config.items():
        lines = text.split(f"{section}:\n")[1].splitlines()[: len(entries)]
        told = {line[2:].split("  ")[0]: line.split("  ")[-1].strip() for line in lines}
        assert told == entries
    assert config["versions"]["tvwarray"] == tvwarray.__version__
    assert config["versions"]["numpy"] == np.__version__
    assert config["processor"]["TVWARRAY_NUM_THREADS"] == "3"
    assert config["backends"]["array"] == "runs float32 NumPy arrays"


def test_the_command_shows_the_same(capsys):
    tvwarray.show_config()
    text = capsys.readouterr().out
    assert main(["env"]) == 0
    assert capsys.readouterr().out == text
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == tvwarray.show_config(mode="dicts")


def test_an_unknown_mode_is_refused(capsys):
    with pytest.raises(ValueError, match='mode is \'dict\'; it is "stdout" or "dicts"'):
        tvwarray.show_config(mode="dict")
    assert capsys.readouterr().out == ""


def test_nothing_optional_is_imported_for_it():
    optional = ("torch", "jax", "tensorflow", "dask", "matplotlib", "safetensors")
    code = (
        f"import sys, tvwarray; tvwarray.show_config(); print(set({optional}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_backend_that_does_not_run_says_why(monkeypatch):
    class Picky:
        name = "picky"

        def refusal(self, storage, x, *, transposed=False):
            return "needs CuPy arrays"

    monkeypatch.setattr(_show_config, "BACKENDS", [Picky()])
    monkeypatch.setattr(_show_config, "native", lambda: None)
    monkeypatch.setattr(_show_config, "why_not_native", lambda: "there is none.")
    assert _show_config.backends() == {
        "cuda": "not installed",
        "cpu": "not installed",
        "array": "not installed",
        "picky": "refuses NumPy arrays: needs CuPy arrays",
        "compiled extension": "not in use: there is none.",
    }


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("amx", "AMX"),
        ("vnni", "VNNI"),
        ("v4", "AVX-512)"),
        ("v3", "AVX2"),
        ("base", "baseline"),
    ],
)
def test_the_instruction_set_of_the_engine_is_named(monkeypatch, name, part):
    class Compiled:
        def isa_names(self):
            return [name, "base"]

    monkeypatch.setattr(_show_config, "native", Compiled)
    found = _show_config.backends()["compiled extension"]
    assert found.startswith("in use: ")
    assert part in found


def test_every_instruction_set_of_the_extension_has_a_name():
    compiled = _show_config.native()
    if compiled is None:
        pytest.skip("there is no compiled extension")
    assert set(compiled.isa_names()) <= {*_show_config._INSTRUCTION_SETS, "base"}


def test_the_processor_has_a_name(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Abacus  9000\n")
    assert _machine.processor(str(cpuinfo)) == "Abacus 9000"
    cpuinfo.write_text("processor\t: 0\n")
    assert _machine.processor(str(cpuinfo))
    assert _machine.processor(str(tmp_path / "none"))


def test_gpus_are_those_of_the_driver(tmp_path, monkeypatch):
    assert _machine.gpus(str(tmp_path / "none")) == []
    for bus, text in (("0000:01:00.0", "Model: \t\t NVIDIA  H200\nIRQ: 7\n"), ("0000:02:00.0", "")):
        folder = tmp_path / bus
        folder.mkdir()
        (folder / "information").write_text(text)
    (tmp_path / "0000:03:00.0" / "information").mkdir(parents=True)  # cannot be read
    assert _machine.gpus(str(tmp_path)) == ["NVIDIA H200", "unknown", "unknown"]
    monkeypatch.setattr(_show_config, "gpus", lambda: ["NVIDIA H200"] * 2)
    assert tvwarray.show_config(mode="dicts")["processor"]["GPUs"] == "NVIDIA H200, NVIDIA H200"
