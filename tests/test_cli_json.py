"""``--json``: the same facts as the text, for programs."""

from __future__ import annotations

import json

import numpy as np

import tvwarray
from tvwarray.__main__ import main


def test_info_of_several_matrices(tmp_path, capsys):
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((64, 48)), 0.75)
    tvwarray.save(tmp_path / "two.npz", {"a": A, "b": A.astype(np.float32)})
    assert main(["info", str(tmp_path / "two.npz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in told["matrices"]] == ["a", "b"]
    first = told["matrices"][0]
    assert first["shape"] == [64, 48]
    assert first["form"] == "TVW"
    assert first["density"] == A.density
    assert first["sizes"]["tvw"] == A.nbytes
    assert first["sizes"]["dense"] == 64 * 48 * 8
    assert told["left_alone"] == {}


def test_info_of_a_model_says_what_is_left_alone(tmp_path, capsys):
    np.savez(tmp_path / "model.npz", weight=np.eye(32), bias=np.ones(32))
    assert main(["info", str(tmp_path / "model.npz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [m["form"] for m in told["matrices"]] == ["2:4"]
    assert list(told["left_alone"]) == ["bias"]


def test_env(capsys):
    assert main(["env", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"versions", "processor", "backends"}
    assert told["versions"]["numpy"] == np.__version__
    assert "array" in told["backends"]
