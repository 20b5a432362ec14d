"""`sparsify_model` and ``tvwarray prune`` over many layers.

Axes: kinds of weights, adapters, scores and selections given or not, library of the arrays, what is
left alone, the report and the pictures. Single matrices are in ``test_sparsify.py``.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvwarray
from tvwarray import FormatError, prune, sparsify_model
from tvwarray.__main__ import main
from tvwarray.prune.adapters import Conv, GateStack, InProjection, Linear


def make_weights(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = {
        "block.up.weight": (96, 64),
        "block.down.weight": (64, 96),
        "block.up.bias": (96,),
        "conv.weight": (32, 16, 3, 3),
        "token_embedding.weight": (200, 64),
        "head.weight": (10, 64),
        "positions": (1, 32),
    }
    made = {n: rng.standard_normal(s).astype(dtype) for n, s in shapes.items()}
    return made | {"positions": np.arange(32)[None]}


@given(
    st.sampled_from([0.5, 0.75, 0.9]),
    st.sampled_from(["global", "layer"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_model_is_ranked_as_its_matrices(sparsity, scope, grouped, seed):
    weights = make_weights(seed)
    options = {"scope": scope, "tile_rows": 16, "group_rows": grouped}
    model = sparsify_model(weights, sparsity, **options)
    matrices = {n: weights[n].reshape(weights[n].shape[0], -1) for n in model.matrices}
    assert list(matrices) == ["block.up.weight", "block.down.weight", "conv.weight"]
    scores = {n: np.abs(m) for n, m in matrices.items()}
    masks = prune.global_masks(scores, sparsity, **options)
    kept = total = 0
    for layer in model.layers:
        A, W, mask = model.matrices[layer.name], matrices[layer.name], masks[layer.name]
        A.storage.check()
        np.testing.assert_array_equal(A.toarray(), np.where(mask, W, 0))
        np.testing.assert_array_equal(model.masks[layer.name].reshape(W.shape), mask)
        assert model.masks[layer.name].shape == weights[layer.name].shape
        assert layer.sparsity == pytest.approx(1 - mask.mean())
        assert layer.score_kept == pytest.approx(np.abs(W)[mask].sum() / np.abs(W).sum(), rel=1e-6)
        assert (layer.nbytes, layer.dense_nbytes) == (A.nbytes, W.nbytes)
        assert layer.tiles == A.storage.num_tiles
        kept, total = kept + mask.sum(), total + mask.size
    assert model.sparsity == pytest.approx(1 - kept / total)


def test_what_is_left_alone_and_why():
    weights = make_weights() | {
        "text": np.array(["a", "b"])[:, None],
        "deep": np.zeros((16,) * 6, np.int8)[:1],
    }
    model = sparsify_model(weights, 0.75)
    assert {n: why.split()[0:4] for n, why in model.left_alone.items()} == {
        "block.up.bias": ["it", "has", "1", "dimension"],
        "token_embedding.weight": ["by", "its", "name", "it"],
        "head.weight": ["it", "has", "fewer", "than"],
        "positions": ["int64", "values", "are", "indices"],
        "text": ["a", "matrix", "cannot", "hold"],
        "deep": ["it", "has", "6", "dimensions"],
    }
    named = sparsify_model(weights, 0.75, only=["head.*", "positions"])
    assert set(named.matrices) == {"head.weight", "positions"}
    assert named.left_alone["conv.weight"] == "it is not asked for"


def test_adapters_cut_and_turn():
    rng = np.random.default_rng(0)
    weights = {
        "rnn.kernel": rng.standard_normal((32, 4 * 24)),
        "attention.in_proj": rng.standard_normal((3 * 32, 32)),
        "conv.kernel": rng.standard_normal((3, 3, 16, 32)),
        "dense.kernel": rng.standard_normal((32, 48)),
    }
    adapters = {
        "rnn.*": GateStack(transposed=True, separate=True),
        "attention.*": InProjection(),
        "conv.*": Conv("HWIO"),
        "*.kernel": Linear(transposed=True),
    }
    model = sparsify_model(weights, 0.75, adapters=adapters, tile_rows=16, scope="layer")
    assert {n: A.shape for n, A in model.matrices.items()} == {
        **{f"rnn.kernel.{g}": (24, 32) for g in "ifgo"},
        **{f"attention.in_proj.{p}": (32, 32) for p in "qkv"},
        "conv.kernel": (32, 144),
        "dense.kernel": (48, 32),
    }
    for name, W in weights.items():
        adapter = next(a for p, a in adapters.items() if p.split("*")[0] in name)
        parts = adapter.split(np.where(model.masks[name], W, 0))
        for part, matrix in parts.items():
            A = model.matrices[f"{name}.{part}" if part else name]
            np.testing.assert_array_equal(A.toarray(), matrix)


def test_scores_decide():
    weights = {"a": np.ones((32, 32)), "b": np.ones((32, 32))}
    scores = {n: np.zeros((32, 32)) for n in weights}
    scores["a"][:, ::2] = 1
    model = sparsify_model(weights, 0.75, pattern="ew", scores=scores, floor=0)
    np.testing.assert_array_equal(model.matrices["a"].toarray(), np.tile([1, 0], (32, 16)))
    assert model.matrices["b"].nnz == 0
    assert [x.score_kept for x in model.layers] == [1.0, 1.0]


def test_selections_of_stages():
    weights = make_weights()
    only = {n: np.abs(weights[n]) for n in ("block.up.weight", "block.down.weight")}
    selections = prune.global_selections(only, 0.75, tile_rows=32)
    model = sparsify_model(weights, selections=selections)
    assert set(model.matrices) == set(only)
    assert model.left_alone["conv.weight"] == "there is no selection of it"
    for name, A in model.matrices.items():
        kept = np.where(selections[name].mask, weights[name], 0)
        np.testing.assert_array_equal(A.toarray(), kept)
        assert A.storage.num_tiles == selections[name].layout.num_tiles


@pytest.mark.parametrize("pattern", ["tvw", "tw", "tew", "ew", "bw"])
def test_every_pattern_saves(tmp_path, pattern):
    weights = make_weights(dtype=ml_dtypes.bfloat16)
    model = sparsify_model(weights, 0.75, pattern=pattern, tile_rows=16)
    tvwarray.save(tmp_path / "model.safetensors", model.matrices)
    back = tvwarray.load(tmp_path / "model.safetensors")
    for name, A in model.matrices.items():
        assert back[name].dtype == ml_dtypes.bfloat16
        W = weights[name].reshape(A.shape)
        kept = np.where(model.masks[name].reshape(A.shape), W, W.dtype.type(0))
        np.testing.assert_array_equal(back[name].toarray(), kept)


def test_arrays_of_another_library():
    weights = {"a": array_api_strict.asarray(make_weights()["block.up.weight"])}
    model = sparsify_model(weights, 0.5, tile_rows=16)
    assert isinstance(model.matrices["a"].toarray(), np.ndarray)
    assert model.matrices["a"].nnz == 96 * 32


def test_progress_sees_the_work():
    seen = []

    def progress(items):
        seen.append(len(items))
        return items

    sparsify_model(make_weights(), 0.75, progress=progress)
    assert seen[-1] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass sparsity, or selections"),
        ({"sparsity": 0.5, "selections": {}}, "one of them"),
        ({"selections": {}}, "there is no selection of it"),
        ({"sparsity": 0.5, "only": ["x"]}, "it is not asked for"),
        ({"sparsity": 0.5, "scores": {}}, r"block\.up\.weight: there are no scores"),
        ({"sparsity": 0.2}, r"0\.2"),
        ({"sparsity": 0.5, "adapters": {"*": GateStack()}}, r"conv\.weight: Linear weights have 2"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(FormatError, match=message):
        sparsify_model(make_weights(), **options)


def test_selections_that_do_not_fit():
    W = np.ones((32, 32))
    good = prune.TileVectorWise(16).select(W, 0.5)
    bad = prune.Selection(np.ones((16, 32), bool), None)
    with pytest.raises(FormatError, match=r"its selection has shape \(16, 32\)"):
        sparsify_model({"a": W}, selections={"a": bad})
    with pytest.raises(FormatError, match="tile_rows says how to rank"):
        sparsify_model({"a": W}, selections={"a": good}, tile_rows=16)
    with pytest.raises(FormatError, match=r"a\.k: there is no selection"):
        sparsify_model(
            {"a": np.ones((96, 32))}, selections={"a.q": good}, adapters={"a": InProjection()}
        )
    with pytest.raises(FormatError, match=r"scores have shape \(4, 4\)"):
        sparsify_model({"a": W}, 0.5, scores={"a": np.ones((4, 4))})
    with pytest.raises(FormatError, match=r"two matrices are called a\.q"):
        sparsify_model({"a": np.ones((96, 32)), "a.q": W}, 0.5, adapters={"a": InProjection()})


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.numpy", reason="writes the model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layers").mkdir()
    weights = make_weights()
    safetensors.save_file(weights, tmp_path / "model.safetensors")
    return weights


def test_the_command_prunes_a_model(model_file, capsys):
    arguments = ["prune", "model.safetensors", "A.safetensors", "--sparsity", "0.75"]
    more = ["--tile-rows", "16", "--report", "A.json", "--pictures", "layers"]
    assert main([*arguments, *more]) == 0
    said = capsys.readouterr().out
    want = sparsify_model(model_file, 0.75, tile_rows=16)
    got = tvwarray.load("A.safetensors")
    assert set(got) == set(want.matrices)
    for name, A in got.items():
        np.testing.assert_array_equal(A.toarray(), want.matrices[name].toarray())
    assert "75.00% of 3 matrices pruned" in said
    assert "looked up, not multiplied: token_embedding.weight" in said

    with open("A.json") as file:
        report = json.load(file)
    assert report["target"] == 0.75
    assert report["sparsity"] == pytest.approx(want.sparsity)
    layers = want.report()["layers"]
    assert {x["name"]: x["score_kept"] for x in report["layers"]} == {
        x["name"]: pytest.approx(x["score_kept"]) for x in layers
    }
    assert report["left_alone"]["positions"] == want.left_alone["positions"]

    pictures = sorted(p.name for p in Path("layers").iterdir())
    assert len(pictures) == 3
    for name in pictures:
        assert ET.parse(f"layers/{name}").getroot().tag.endswith("svg")


def test_the_command_ranks_by_layer_without_layouts(model_file):
    arguments = ["prune", "model.safetensors", "A.npz", "--sparsity", "0.5", "--tile-rows", "16"]
    options = ["--scope", "layer", "--no-permute", "--no-group-rows"]
    assert main([*arguments, *options]) == 0
    for name, A in tvwarray.load("A.npz").items():
        plain = prune.TileVectorWise(16, permute=False, group_rows=False)
        W = model_file[name].reshape(A.shape)
        np.testing.assert_array_equal(A.toarray(), np.where(plain.select(abs(W), 0.5).mask, W, 0))


def test_the_command_prunes_a_model_of_convolutions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights = {n: make_weights()["conv.weight"] for n in ("first", "second")}
    np.savez("cnn.npz", **weights)
    assert main(["prune", "cnn.npz", "A.npz", "--sparsity", "0.75", "--tile-rows", "16"]) == 0
    assert {A.shape for A in tvwarray.load("A.npz").values()} == {(32, 144)}
    np.savez("nothing.npz")
    assert main(["prune", "nothing.npz", "A.npz", "--sparsity", "0.75"]) == 2
    assert "no arrays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--report", "nowhere/A.json"], "no folder nowhere"),
        (["--pictures", "nowhere"], "no folder nowhere"),
        (["--floor", "2"], "floor is 2"),
        (["--only", "block.up.bias"], "it has 1 dimension"),
        (["--only", "nothing"], "no name like nothing"),
    ],
)
def test_the_command_refuses_before_it_writes(model_file, capsys, tmp_path, option, message):
    assert main(["prune", "model.safetensors", "A.npz", "--sparsity", "0.75", *option]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "A.npz").exists()
