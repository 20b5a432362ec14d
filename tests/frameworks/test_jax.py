"""JAX: products under every transformation, matrices as pytrees, sparse arrays."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from framework_bounds import assert_product  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from jax.experimental import sparse  # noqa: E402
from strategies import random_values, seeds, storages  # noqa: E402

import tvwarray  # noqa: E402
import tvwarray.jax as tvj  # noqa: E402
from tvwarray import TVWMatrix  # noqa: E402
from tvwarray._epilogue import Epilogue  # noqa: E402
from tvwarray._frozen import values_of  # noqa: E402

TYPES = ["float32", "float16", "bfloat16", "int8", "complex64"]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def pruned(rows=24, cols=40, dtype=np.float32, seed=0):
    W = np.random.default_rng(seed).standard_normal((rows, cols)).astype(dtype)
    return tvwarray.sparsify(W, 0.5)


def close(got, expected, dtype=np.float32):
    assert isinstance(got, jax.Array)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=12)  # JAX compiles anew for each shape
@given(storages(dtypes=TYPES, max_side=40), st.integers(1, 4), seeds)
def test_cpu_product_is_an_array_within_the_bound(storage, n, seed):
    """A @ x and x @ A.T: the type is the caller's."""
    A = TVWMatrix.from_storage(storage)
    values = random_values(np.random.default_rng(seed), (A.shape[1], n), storage.dtype)
    x = jnp.asarray(values)
    y = A @ x
    assert isinstance(y, jax.Array)
    assert y.devices() == x.devices()
    assert y.dtype == (jnp.int32 if storage.dtype.kind == "i" else x.dtype)
    assert_product(tvj.to_array(y), storage, values)
    np.testing.assert_array_equal(np.asarray(x.T @ A.T), np.asarray(y.T))


def test_bf16_goes_both_ways_bit_for_bit():
    bits = np.arange(2**16, dtype=np.uint16)
    x = jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.bfloat16)
    array = tvj.to_array(x)
    assert array.dtype.name == "bfloat16"
    np.testing.assert_array_equal(array.view(np.uint16), bits)
    back = jax.lax.bitcast_convert_type(tvj.to_jax_array(array), jnp.uint16)
    np.testing.assert_array_equal(back, bits)


def test_memory_that_numpy_allows_is_taken():
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    read_only = a.copy()
    read_only.flags.writeable = False
    for x in (a[::-1], a[:, ::2], read_only, a.astype(">f4")):
        np.testing.assert_array_equal(tvj.to_jax_array(x), x)


def test_types_are_never_narrowed():
    A = TVWMatrix(np.eye(16))
    with pytest.raises(TypeError, match=r"float64 would become float32 .*A\.astype\('float32'\)"):
        A @ jnp.ones((16, 2))
    with pytest.raises(TypeError, match="would become"):
        A.to_jax()
    with pytest.raises(TypeError, match="would become"):
        tvj.matmul(A.astype("float32"), np.ones((16, 2)))


def test_64_bit_types_are_held_where_jax_has_them(x64):
    A = pruned(dtype=np.float64)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 3)))
    close(A @ x, A.toarray() @ np.asarray(x), np.float64)
    assert (A @ x).dtype == jnp.float64


@pytest.mark.parametrize("shape", [(40,), (40, 3), (2, 40, 3), (2, 5, 40, 3), (40, 0)])
@pytest.mark.parametrize("traced", [False, True])
def test_batches_and_vectors_have_jaxs_shapes(shape, traced):
    A = pruned()
    x = jnp.asarray(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    run = jax.jit(lambda x: A @ x) if traced else lambda x: A @ x
    close(run(x), jnp.asarray(A.toarray()) @ x)
    if len(shape) > 1:
        close(x.mT @ A.T, x.mT @ jnp.asarray(A.toarray()).T)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "complex64"])
def test_jit_of_every_type(dtype):
    kind = np.dtype(dtype) if dtype != "bfloat16" else jnp.bfloat16
    A = TVWMatrix(np.eye(16, dtype=np.float32) * 2).astype(kind)
    x = jnp.arange(32).reshape(16, 2).astype(kind)
    y = jax.jit(lambda x: A @ x)(x)
    assert y.dtype == (jnp.int32 if dtype == "int8" else kind)
    np.testing.assert_array_equal(y.astype(jnp.complex64), 2 * x.astype(jnp.complex64))


def test_jit_of_large_products_does_not_deadlock():
    """Callbacks that read arrays the caller still computes have hung before."""
    A = tvwarray.sparsify(np.ones((512, 1024), np.float32), 0.75)
    x = jnp.ones((1024, 2000))

    @jax.jit
    def twice(x):
        y = A @ (x @ jnp.eye(2000))
        return A.T @ y

    for _ in range(3):
        result = twice(x)
    np.testing.assert_allclose(result, A.toarray().T @ (A.toarray() @ np.ones((1024, 2000))))


# Gradients


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_of_x_and_values_are_the_dense_ones(x64, transposed, jit):
    A = pruned(dtype=np.float64)
    A = A.T if transposed else A
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, A.shape[1])))
    bias = jnp.arange(float(A.shape[0]))
    values = jnp.asarray(values_of(A.storage))
    dense = jnp.asarray(A.toarray())

    def sparse_loss(x, values, bias):
        return (jnp.sin(tvj.linear(x, A, bias, "gelu", values=values)) ** 2).sum()

    def dense_loss(x, dense, bias):
        return (jnp.sin(jax.nn.gelu(x @ dense.T + bias, approximate=False)) ** 2).sum()

    grad = jax.grad(sparse_loss, argnums=(0, 1, 2))
    dx, dvalues, dbias = (jax.jit(grad) if jit else grad)(x, values, bias)
    ex, edense, ebias = jax.grad(dense_loss, argnums=(0, 1, 2))(x, dense, bias)
    close(dx, ex, np.float64)
    close(dbias, ebias, np.float64)
    from tvwarray._frozen import frozen_pattern

    filled = frozen_pattern(A.storage).fill(np.asarray(dvalues))
    got = TVWMatrix.from_storage(filled, transposed=transposed).toarray()
    np.testing.assert_allclose(got, np.where(dense != 0, edense, 0), rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences_twice(x64):
    A = pruned(8, 16, np.float64)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16)))
    values = jnp.asarray(values_of(A.storage))
    from jax.test_util import check_grads

    check_grads(lambda x, v: tvj.linear(x, A, values=v), (x, values), order=2, modes=["rev"])


def test_half_precision_gradients_have_their_type():
    A = TVWMatrix(np.eye(16, dtype=np.float32)).astype("bfloat16")
    values = jnp.asarray(values_of(A.storage))
    x = jnp.ones((2, 16), jnp.bfloat16)

    def loss(x, values):
        return tvj.linear(x, A, values=values).sum()

    dx, dvalues = jax.grad(loss, (0, 1))(x, values)
    assert dx.dtype == dvalues.dtype == jnp.bfloat16
    np.testing.assert_array_equal(dvalues, np.where(values_of(A.storage) != 0, 2, 0))


def test_complex_gradients_are_those_of_jax():
    A = TVWMatrix(np.diag(np.arange(1, 17) * (1 + 2j)).astype(np.complex64))
    x = jnp.asarray((np.arange(16) - 1j).astype(np.complex64))
    dense = jnp.asarray(A.toarray())
    got = jax.grad(lambda x: jnp.real((A @ x) ** 2).sum())(x)
    close(got, jax.grad(lambda x: jnp.real((dense @ x) ** 2).sum())(x))


def test_vmap_over_x_values_and_both():
    A = pruned()
    dense = jnp.asarray(A.toarray())
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((6, 40)).astype(np.float32))
    close(jax.vmap(lambda v: A @ v)(x), x @ dense.T)
    close(jax.vmap(jax.vmap(lambda v: A @ v))(x.reshape(2, 3, 40)), (x @ dense.T).reshape(2, 3, 24))
    values = jnp.asarray(values_of(A.storage))
    many = jnp.stack([values, 2 * values, -values])
    run = lambda v, x: tvj.linear(x, A, values=v)  # noqa: E731
    expected = jnp.stack([x @ dense.T, 2 * x @ dense.T, -x @ dense.T])
    close(jax.vmap(run, (0, None))(many, x), expected)
    close(jax.vmap(run)(many, x[:3]), jnp.stack([e[i] for i, e in enumerate(expected)]))


def test_gradients_of_each_sample():
    """vmap of grad: the sampled product is batched too."""
    A = pruned()
    values = jnp.asarray(values_of(A.storage))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 40)).astype(np.float32))

    def loss(values, x):
        return (tvj.linear(x[None], A, values=values) ** 2).sum()

    each = jax.vmap(jax.grad(loss), (None, 0))(values, x)
    for gradient, sample in zip(each, x, strict=True):
        close(gradient, jax.grad(loss)(values, sample))


# Matrices as arguments


def test_a_matrix_is_a_pytree_of_its_values():
    A = pruned()
    leaves, structure = jax.tree.flatten(A)
    assert len(leaves) == 1
    back = jax.tree.unflatten(structure, leaves)
    assert isinstance(back, TVWMatrix)
    np.testing.assert_array_equal(back.toarray(), A.toarray())
    double = jax.tree.map(lambda x: 2 * x, A.T)
    np.testing.assert_array_equal(double.toarray(), 2 * A.toarray().T)
    assert jax.tree.structure(A) == jax.tree.structure(double.T) != jax.tree.structure(A.T)


def test_a_matrix_is_an_argument_without_tracing_anew():
    A = pruned()
    x = jnp.ones((40, 2))
    traces = []

    @jax.jit
    def run(A, x):
        traces.append(1)
        return A @ x, jnp.ones((3, 40)) @ A.T, A @ np.ones((40, 2), np.float32)

    for factor in (1, 2):
        B = jax.tree.map(lambda v: v * factor, A)  # noqa: B023
        y, z, w = run(B, x)
        close(y, factor * A.toarray() @ np.ones((40, 2)))
        close(z, factor * np.ones((3, 40)) @ A.toarray().T)
        close(w, y)
    assert len(traces) == 1


@pytest.mark.parametrize("remainder", [False, True])
def test_the_gradient_of_a_matrix_is_a_matrix(remainder):
    A = pruned()
    if remainder:
        import scipy.sparse as sp

        beside = sp.csr_array(([5.0], ([3], [4])), shape=A.shape).astype(np.float32)
        A = A.with_remainder(beside)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    gradient = jax.jit(jax.grad(lambda A: (jnp.sin(A @ x)).sum()))(A)
    assert isinstance(gradient, TVWMatrix)
    dense = jnp.asarray(A.toarray())
    expected = jax.grad(lambda d: jnp.sin(d @ x).sum())(dense)
    if remainder:  # an entry of both parts has its gradient in each
        assert gradient.remainder.nnz == 1
        np.testing.assert_allclose(gradient.remainder[3, 4], expected[3, 4], rtol=1e-5)
    else:
        np.testing.assert_allclose(
            gradient.toarray(), np.where(dense != 0, expected, 0), rtol=1e-4, atol=1e-5
        )
    step = jax.tree.map(lambda v, g: v - 0.1 * g, A, gradient)
    assert isinstance(step, TVWMatrix)
    close(step @ x, jnp.asarray(step.toarray()) @ x)


# Conversions and refusals


@settings(max_examples=12)
@given(storages(dtypes=TYPES, max_side=40))
def test_bcsr_holds_the_matrix_in_its_dtype(storage):
    A = TVWMatrix.from_storage(storage)
    x = A.to_jax()
    assert isinstance(x, sparse.BCSR)
    assert x.shape == A.shape
    assert x.dtype == A.dtype
    back = tvj.from_jax(x)
    assert back.dtype == A.dtype
    np.testing.assert_array_equal(oracle.dense(back.storage), oracle.wide(A.toarray()))


def test_dense_and_sparse_arrays_are_taken():
    dense = jnp.zeros((12, 20)).at[::3, ::2].set(3)
    for x in (dense, sparse.BCOO.fromdense(dense, nse=60), sparse.BCSR.fromdense(dense)):
        np.testing.assert_array_equal(TVWMatrix(x).toarray(), dense)


def test_components_of_jax_arrays_make_a_matrix():
    A = pruned()
    parts = A.to_components()
    arrays = {k: jnp.asarray(x) for k, x in parts.items() if isinstance(x, np.ndarray)}
    back = TVWMatrix.from_components(**{**parts, **arrays})
    np.testing.assert_array_equal(back.toarray(), A.toarray())
    aligned = jax.dlpack.from_dlpack(parts["data"])
    assert aligned.unsafe_buffer_pointer() == parts["data"].ctypes.data


@pytest.mark.parametrize("name", [None, "relu", "gelu", "gelu_tanh", "silu", "callable"])
def test_linear_has_the_functions_of_jax(name):
    A = pruned()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 40)).astype(np.float32))
    bias, residual = jnp.arange(24.0), jnp.ones((2, 3, 24))
    functions = {
        None: lambda y: y,
        "relu": jax.nn.relu,
        "gelu": lambda y: jax.nn.gelu(y, approximate=False),
        "gelu_tanh": jax.nn.gelu,
        "silu": jax.nn.silu,
        "callable": jnp.tanh,
    }
    given = jnp.tanh if name == "callable" else name
    expected = functions[name](x @ jnp.asarray(A.toarray()).T + bias) + residual
    close(tvwarray.linear(x, A, bias, given, residual=residual), expected)


def test_an_epilogue_is_applied_to_concrete_arrays():
    A = TVWMatrix(np.eye(16, dtype=np.float32))
    x = jnp.ones((16, 3))
    steps = Epilogue(alpha=2.0, bias=jnp.arange(16.0))
    close(tvwarray.matmul(A, x, epilogue=steps), 2 + np.arange(16.0)[:, None] * np.ones((1, 3)))
    with pytest.raises(ValueError, match="an epilogue has no gradient"):
        jax.jit(lambda x: tvwarray.matmul(A, x, epilogue=steps))(x)


def test_what_cannot_be_multiplied_says_why():
    A = TVWMatrix(np.eye(16, dtype=np.float32))
    with pytest.raises(ValueError, match="X must have 16 rows"):
        A @ jnp.ones((3, 2))
    with pytest.raises(ValueError, match="takes no scalar"):
        A @ jnp.asarray(1.0)
    with pytest.raises(ValueError, match="its last axis must be 16"):
        jnp.ones((2, 3)) @ A.T
    with pytest.raises(ValueError, match="never written to"):
        tvwarray.matmul(A, jnp.ones((16, 2)), out=jnp.ones((16, 2)))
    with pytest.raises(ValueError, match=r"bias has shape \(3,\)"):
        tvwarray.linear(jnp.ones((2, 16)), A, jnp.ones(3))
    with pytest.raises(ValueError, match="values has shape"):
        tvj.matmul(A, jnp.ones((16, 2)), values=jnp.ones(3))
    with pytest.raises(TypeError, match="a matrix has 2 sparse axes"):
        TVWMatrix(sparse.BCOO.fromdense(jnp.ones((2, 3, 4))))
    with pytest.raises(TypeError, match="the array is traced"):
        jax.jit(tvj.to_array)(jnp.ones(3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gpu_arrays_go_by_dlpack(dtype):
    import cupy

    x = jnp.ones((256, 64), dtype)
    if next(iter(x.devices())).platform == "cpu":
        pytest.skip("this JAX has no GPU")
    array = tvj.to_array(x)
    assert isinstance(array, cupy.ndarray)
    assert array.data.ptr == x.unsafe_buffer_pointer()
    back = tvj.to_jax_array(array)
    assert back.unsafe_buffer_pointer() == array.data.ptr
    A = tvwarray.sparsify(np.ones((256, 256), x.dtype), 0.75).to_device(x)
    y = A @ x
    assert y.devices() == x.devices()
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(y, np.float32), 64)
    with pytest.raises(TypeError, match="traced products run on the host"):
        jax.jit(lambda x: A @ x)(x)
