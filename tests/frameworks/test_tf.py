"""TensorFlow: products eagerly and in graphs, gradients, sparse tensors."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from framework_bounds import assert_product  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from strategies import random_values, seeds, storages  # noqa: E402

import tvwarray  # noqa: E402
import tvwarray.tf as tvf  # noqa: E402
from tvwarray import TVWMatrix  # noqa: E402
from tvwarray._epilogue import Epilogue  # noqa: E402
from tvwarray._frozen import frozen_pattern, values_of  # noqa: E402

TYPES = ["float32", "float64", "float16", "bfloat16", "int8", "complex64"]


def pruned(rows=24, cols=40, dtype=np.float64, seed=0):
    W = np.random.default_rng(seed).standard_normal((rows, cols)).astype(dtype)
    return tvwarray.sparsify(W, 0.5)


def normal(*shape):
    return tf.constant(np.random.default_rng(7).standard_normal(shape))


def close(got, expected):
    assert tf.is_tensor(got)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(storages(dtypes=TYPES, max_side=40), st.integers(1, 4), seeds)
def test_cpu_product_is_a_tensor_within_the_bound(storage, n, seed):
    """A @ x and x @ A.T: the type is the caller's."""
    A = TVWMatrix.from_storage(storage)
    values = random_values(np.random.default_rng(seed), (A.shape[1], n), storage.dtype)
    x = tvf.to_tensor(values)
    y = A @ x
    assert tf.is_tensor(y)
    assert y.device == x.device
    assert y.dtype == (tf.int32 if storage.dtype.kind == "i" else x.dtype)
    assert_product(tvf.to_array(y), storage, values)
    np.testing.assert_array_equal(tvf.to_array(tf.transpose(x) @ A.T), tvf.to_array(y).T)


def test_bf16_goes_both_ways_bit_for_bit():
    bits = np.arange(2**16, dtype=np.uint16)
    x = tf.bitcast(tf.constant(bits), tf.bfloat16)
    array = tvf.to_array(x)
    assert array.dtype.name == "bfloat16"
    np.testing.assert_array_equal(array.view(np.uint16), bits)
    np.testing.assert_array_equal(tf.bitcast(tvf.to_tensor(array), tf.uint16), bits)


def test_memory_that_numpy_allows_is_taken():
    a = np.arange(12.0).reshape(3, 4)
    read_only = a.copy()
    read_only.flags.writeable = False
    for x in (a[::-1], a[:, ::2], read_only, a.astype(">f8")):
        np.testing.assert_array_equal(tvf.to_tensor(x), x)
    x = tf.constant(a)
    assert np.shares_memory(tvf.to_array(x), tvf.to_array(x))


@pytest.mark.parametrize("shape", [(40,), (40, 3), (2, 40, 3), (2, 5, 40, 3), (40, 0)])
@pytest.mark.parametrize("graph", [False, True])
def test_batches_and_vectors_have_tensorflows_shapes(shape, graph):
    A = pruned()
    x = normal(*shape)
    run = tf.function(lambda x: A @ x) if graph else lambda x: A @ x
    close(run(x), A.toarray() @ x.numpy())
    if len(shape) > 1:
        xt = tf.linalg.matrix_transpose(x)
        close(xt @ A.T, xt.numpy() @ A.toarray().T)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8", "complex64"])
def test_jit_graph_of_every_type_and_unknown_batch(name):
    """tf.function: symbolic tensors, of a size that the graph does not know."""
    dtype = tf.as_dtype(name)
    A = TVWMatrix(np.eye(16, dtype=np.float32) * 2).astype(dtype.as_numpy_dtype)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, 16), dtype)])
    def run(x):
        traces.append(x)
        y = x @ A.T
        assert y.shape.as_list() == [None, 16]
        return y

    for n in (1, 3):
        x = tf.cast(tf.reshape(tf.range(16 * n), (n, 16)), dtype)
        y = run(x)
        assert y.dtype == (tf.int32 if name == "int8" else dtype)
        np.testing.assert_array_equal(
            tf.cast(y, tf.complex64), 2 * tf.cast(x, tf.complex64).numpy()
        )
    assert len(traces) == 1


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_gradients_of_x_and_values_are_the_dense_ones(transposed, graph):
    A = pruned()
    A = A.T if transposed else A
    x, bias = tf.Variable(normal(5, A.shape[1])), tf.Variable(normal(A.shape[0]))
    values, dense = tf.Variable(values_of(A.storage)), tf.Variable(A.toarray())

    def sparse_gradients():
        with tf.GradientTape() as tape:
            y = tvf.linear(x, A, bias, "gelu", values=values)
            loss = tf.reduce_sum(tf.sin(y) ** 2)
        return tape.gradient(loss, (x, values, bias))

    dx, dvalues, dbias = (tf.function(sparse_gradients) if graph else sparse_gradients)()
    with tf.GradientTape() as tape:
        y = tf.nn.gelu(tf.matmul(x, dense, transpose_b=True) + bias)
        loss = tf.reduce_sum(tf.sin(y) ** 2)
    ex, edense, ebias = tape.gradient(loss, (x, dense, bias))
    close(dx, ex)
    close(dbias, ebias)
    filled = frozen_pattern(A.storage).fill(tvf.to_array(dvalues))
    got = TVWMatrix.from_storage(filled, transposed=transposed).toarray()
    np.testing.assert_allclose(got, np.where(dense.numpy() != 0, edense, 0), atol=1e-12)


@pytest.mark.parametrize("graph", [False, True])
def test_gradients_agree_with_finite_differences_and_twice(graph):
    A = pruned(8, 16)
    values = tf.constant(values_of(A.storage))

    def run(x, values):
        return tvf.linear(x, A, values=values) ** 2

    def first(x, values):
        with tf.GradientTape() as tape:
            tape.watch([x, values])
            y = tf.reduce_sum(tvf.linear(x, A, values=values) ** 3)
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(y, (x, values))], 0)

    for function in (run, first):
        used = tf.function(function) if graph else function
        theory, numeric = tf.test.compute_gradient(used, [normal(2, 16), values])
        for a, b in zip(theory, numeric, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_complex_gradients_are_those_of_tensorflow():
    A = TVWMatrix(np.diag(np.arange(1, 17) * (1 + 2j)))
    x, dense = tf.constant(np.arange(16) - 1j), tf.constant(A.toarray())
    values = tf.constant(values_of(A.storage))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, dense, values])
        loss = tf.math.real(tf.reduce_sum(tvf.matmul(A, x, values=values) ** 2))
        expected = tf.math.real(tf.reduce_sum(tf.linalg.matvec(dense, x) ** 2))
    close(tape.gradient(loss, x), tape.gradient(expected, x))
    got = frozen_pattern(A.storage).fill(tvf.to_array(tape.gradient(loss, values)))
    gradient = np.diag(np.diag(tape.gradient(expected, dense)))
    np.testing.assert_allclose(TVWMatrix.from_storage(got).toarray(), gradient)


@pytest.mark.parametrize("name", [None, "relu", "gelu", "gelu_tanh", "silu", "callable"])
def test_linear_has_the_functions_of_tensorflow(name):
    A = pruned()
    x, bias, residual = normal(2, 3, 40), normal(24), normal(2, 3, 24)
    functions = {
        None: lambda y: y,
        "relu": tf.nn.relu,
        "gelu": tf.nn.gelu,
        "gelu_tanh": lambda y: tf.nn.gelu(y, approximate=True),
        "silu": tf.nn.silu,
        "callable": tf.tanh,
    }
    given = tf.tanh if name == "callable" else name
    expected = functions[name](tf.constant(x.numpy() @ A.toarray().T) + bias) + residual
    close(tvwarray.linear(x, A, bias, given, residual=residual), expected)


def test_half_precision_gradients_have_their_type():
    A = TVWMatrix(np.eye(16, dtype=np.float16))
    x, values = tf.Variable(tf.ones((2, 16), tf.float16)), tf.Variable(values_of(A.storage))
    with tf.GradientTape() as tape:
        y = tvf.linear(x, A, values=values)
    dx, dvalues = tape.gradient(y, (x, values))
    assert y.dtype == dx.dtype == dvalues.dtype == tf.float16
    np.testing.assert_array_equal(dvalues, np.where(values_of(A.storage) != 0, 2, 0))


def test_variables_and_epilogues_are_taken():
    A = TVWMatrix(np.eye(16))
    x = tf.Variable(normal(16, 3))
    close(A @ x, x)
    close(tf.transpose(x) @ A.T, tf.transpose(x))
    steps = Epilogue(alpha=2.0, bias=tf.range(16, dtype=tf.float64))
    close(tvwarray.matmul(A, x, epilogue=steps), 2 * x + np.arange(16.0)[:, None])


@settings(max_examples=25)
@given(storages(dtypes=TYPES, max_side=40))
def test_sparse_tensors_hold_the_matrix_in_its_dtype(storage):
    A = TVWMatrix.from_storage(storage)
    x = A.to_tf()
    assert isinstance(x, tf.SparseTensor)
    assert x.dtype == tf.as_dtype(A.dtype)
    back = tvf.from_tf(x)
    assert back.dtype == A.dtype
    assert back.shape == A.shape
    np.testing.assert_array_equal(oracle.dense(back.storage), oracle.wide(A.toarray()))


def test_dense_tensors_and_components_make_a_matrix():
    A = pruned()
    np.testing.assert_array_equal(TVWMatrix(tf.constant(A.toarray())).toarray(), A.toarray())
    parts = A.to_components()
    tensors = {k: tvf.to_tensor(x) for k, x in parts.items() if isinstance(x, np.ndarray)}
    back = TVWMatrix.from_components(**{**parts, **tensors})
    np.testing.assert_array_equal(back.toarray(), A.toarray())


def test_what_cannot_be_multiplied_says_why():
    A = TVWMatrix(np.eye(16))
    with pytest.raises(ValueError, match="X must have 16 rows"):
        A @ normal(3, 2)
    with pytest.raises(ValueError, match="takes no scalar"):
        A @ tf.constant(1.0)
    with pytest.raises(ValueError, match="its last axis must be 16"):
        tvwarray.linear(normal(2, 3), A)
    with pytest.raises(ValueError, match="never written to"):
        tvwarray.matmul(A, normal(16, 2), out=normal(16, 2))
    with pytest.raises(ValueError, match="never written to"):
        tvwarray.linear(normal(2, 16), A, out=normal(2, 16))
    with pytest.raises(ValueError, match=r"bias has shape \(3,\)"):
        tvwarray.linear(normal(2, 16), A, normal(3))
    with pytest.raises(ValueError, match="values has shape"):
        tvf.matmul(A, normal(16, 2), values=normal(3))
    with pytest.raises(TypeError, match=r"the tensor is sparse; .* tvwarray\.TVWMatrix\(x\)"):
        A @ tf.sparse.from_dense(tf.eye(16))
    with pytest.raises(TypeError, match="a matrix has 2 axes"):
        TVWMatrix(tf.sparse.from_dense(tf.ones((2, 3, 4))))
    with pytest.raises(TypeError, match="the tensor is symbolic"):
        tf.function(tvf.to_array, autograph=False)(tf.ones(3))


@pytest.mark.gpu
def test_gpu_tensors_go_by_dlpack():
    import cupy

    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("this TensorFlow has no GPU")
    x = tf.ones((256, 64), tf.float16)
    array = tvf.to_array(x)
    assert isinstance(array, cupy.ndarray)
    A = tvwarray.sparsify(np.ones((256, 256), np.float16), 0.75).to_device(x)
    assert (A @ x).device == x.device
    with pytest.raises(TypeError, match="graphs multiply on the host"):
        tf.function(lambda x: A @ x)(x)
