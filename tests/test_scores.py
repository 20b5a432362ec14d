"""Scores: the definitions in wide arithmetic, every array library, accumulation over batches."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from tvwarray import FormatError, prune

DEFINITIONS = {
    "abs": lambda w, g: abs(w * g),
    "square": lambda w, g: (w * g) ** 2,
    "mask": lambda w, g: (g * w**2) ** 2,
}


@pytest.mark.parametrize("form", DEFINITIONS)
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "int8"]
)
@given(st.integers(0, 5), st.integers(0, 7), seeds)
def test_taylor_by_the_definition(form, dtype, rows, cols, seed):
    rng = np.random.default_rng(seed)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    w = rng.integers(-100, 100, (rows, cols)).astype(kind)
    g = (rng.standard_normal((rows, cols)) * 4).astype(kind)
    wide = np.complex128 if kind.kind == "c" else np.float64
    got = prune.taylor(w, g, form)
    exact = np.abs(DEFINITIONS[form](w.astype(wide), g.astype(wide)))
    assert got.shape == w.shape
    assert got.dtype == (np.float64 if dtype == "float64" else np.float32)
    # At most six rounded operations, each of relative error eps / 2; a complex product loses more.
    eps = np.finfo(got.dtype).eps
    assert (np.abs(got - exact) <= 16 * eps * exact).all()


@given(st.integers(1, 4), st.sampled_from(["abs", "square", "mask"]), seeds)
def test_batches_are_averaged(batches, form, seed):
    rng = np.random.default_rng(seed)
    w = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal((2, 2))}
    accumulator = prune.ScoreAccumulator(form)
    each = []
    for _ in range(batches):
        g = {name: rng.standard_normal(x.shape) for name, x in w.items()}
        accumulator.add(w, g)
        each.append({name: prune.taylor(w[name], g[name], form) for name in w})
    assert accumulator.batches == batches
    for name, got in accumulator.scores().items():
        np.testing.assert_allclose(got, np.mean([e[name] for e in each], axis=0), rtol=1e-12)


@given(st.integers(1, 4), seeds)
def test_fisher_is_the_mean_of_squared_gradients(batches, seed):
    rng = np.random.default_rng(seed)
    w = {"a": rng.standard_normal((3, 4)).astype(np.float32)}
    gradients = rng.standard_normal((batches, 3, 4)).astype(np.float32)
    accumulator = prune.ScoreAccumulator("fisher")
    for g in gradients:
        accumulator.add(w, {"a": g})
    exact = w["a"].astype(float) ** 2 * (gradients.astype(float) ** 2).mean(axis=0) / 2
    got = accumulator.scores(w)["a"]
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    np.testing.assert_allclose(prune.fisher(w["a"], (gradients**2).mean(axis=0)), exact, rtol=1e-5)
    with pytest.raises(FormatError, match="needs the weights"):
        accumulator.scores()


def test_small_gradients_of_narrow_types_do_not_vanish():
    """1e-4 squared is below the range of float16; scores are float32."""
    w, g = np.full((1, 1), 1e-3, np.float16), np.full((1, 1), 1e-4, np.float16)
    assert prune.taylor(w, g, "square")[0, 0] == pytest.approx(1e-14, rel=0.01)
    accumulator = prune.ScoreAccumulator("fisher")
    accumulator.add({"a": w}, {"a": g})
    assert accumulator.scores({"a": w})["a"][0, 0] == pytest.approx(0.5e-14, rel=0.01)


def test_state_is_totals_and_batches():
    """Two accumulators, one of which takes over from the other, agree with one."""
    rng = np.random.default_rng(0)
    w = {"a": rng.standard_normal((4, 4))}
    batches = [{"a": rng.standard_normal((4, 4))} for _ in range(4)]
    whole, first, second = (prune.ScoreAccumulator() for _ in range(3))
    for g in batches:
        whole.add(w, g)
    for g in batches[:2]:
        first.add(w, g)
    second.totals, second.batches = first.totals, first.batches
    for g in batches[2:]:
        second.add(w, g)
    np.testing.assert_array_equal(second.scores()["a"], whole.scores()["a"])


def test_a_refused_batch_changes_nothing():
    w = {"a": np.ones((2, 2)), "b": np.ones((3, 3))}
    accumulator = prune.ScoreAccumulator()
    accumulator.add(w, w)
    for weights, gradients, message in (
        (w, {"a": w["a"]}, "b: there are weights or gradients"),
        ({"a": w["a"]}, {"a": w["a"]}, "b is in this batch or in those before"),
        (w, {"a": w["a"], "b": w["a"]}, "b: weights have shape"),
        (
            {**w, "b": w["a"]},
            {**w, "b": w["a"]},
            r"b: shape \(2, 2\), in the batches before \(3, 3\)",
        ),
    ):
        with pytest.raises(FormatError, match=message):
            accumulator.add(weights, gradients)
        assert accumulator.batches == 1
        np.testing.assert_array_equal(accumulator.scores()["a"], np.ones((2, 2)))


def test_bad_input():
    with pytest.raises(FormatError, match="form is 'l1'"):
        prune.taylor(np.ones((1, 1)), np.ones((1, 1)), "l1")
    with pytest.raises(FormatError, match="form is 'l1'"):
        prune.ScoreAccumulator("l1")
    with pytest.raises(FormatError, match="no batch"):
        prune.ScoreAccumulator().scores()
    with pytest.raises(FormatError, match="must be equal"):
        prune.fisher(np.ones((1, 2)), np.ones((2, 1)))


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy"])
def test_arrays_of_any_library(library):
    xp = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, 8, 16)).astype(np.float32)
    W, G = xp.asarray(w), xp.asarray(g)
    np.testing.assert_array_equal(prune.magnitude(W), np.abs(w))
    for form in DEFINITIONS:
        np.testing.assert_allclose(prune.taylor(W, G, form), prune.taylor(w, g, form), rtol=1e-6)
    accumulator = prune.ScoreAccumulator("fisher")
    for _ in range(2):
        accumulator.add({"a": W}, {"a": G})
    assert type(accumulator.totals["a"]) is type(W)
    np.testing.assert_allclose(accumulator.scores({"a": W})["a"], prune.fisher(w, g * g), rtol=1e-6)
    np.testing.assert_array_equal(prune.mask(W * W, 0.75), prune.mask(w * w, 0.75))


def test_torch_parameters_and_narrow_types():
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.randn(16, 16))
    (w * w).sum().backward()
    np.testing.assert_allclose(prune.taylor(w, w.grad), 2 * w.detach().numpy() ** 2, rtol=1e-6)
    half = w.detach().bfloat16()
    np.testing.assert_array_equal(prune.magnitude(half), half.float().abs().numpy())
    accumulator = prune.ScoreAccumulator()
    accumulator.add({"w": w}, {"w": w.grad})
    assert not accumulator.totals["w"].requires_grad


def test_jax_narrow_types():
    jnp = pytest.importorskip("jax.numpy")
    w = np.random.default_rng(0).standard_normal((4, 8)).astype(ml_dtypes.bfloat16)
    got = prune.taylor(jnp.asarray(w), jnp.asarray(w))
    np.testing.assert_array_equal(got, w.astype(np.float32) ** 2)


def test_no_library_is_imported_for_it():
    code = (
        "import sys, numpy as np; from tvwarray import prune; prune.magnitude(np.ones((2, 2)));"
        "prune.global_masks({'a': np.ones((32, 32))}, 0.75);"
        "print(sorted({'torch', 'jax', 'cupy', 'tensorflow', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
