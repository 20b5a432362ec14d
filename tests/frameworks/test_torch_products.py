"""Products with torch tensors: kind, device, dtype, memory, gradients, transforms."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from framework_bounds import assert_product  # noqa: E402
from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from strategies import random_values, seeds, storages  # noqa: E402

import tvwarray  # noqa: E402
import tvwarray.torch as tvt  # noqa: E402
from tvwarray import BackendError, TVWMatrix  # noqa: E402
from tvwarray._frozen import values_of  # noqa: E402

TYPES = ["float32", "float64", "float16", "bfloat16", "int8", "complex64"]
MEMORY = ["contiguous", "transposed", "strided", "expanded"]


def tensor_in(memory, x):
    """Return the tensor laid out in memory in another way."""
    if memory == "transposed":
        return x.T.contiguous().T
    if memory == "strided":
        room = torch.zeros(2 * x.shape[0], 3 * x.shape[1], dtype=x.dtype)
        view = room[::2, ::3]
        view.copy_(x)
        return view
    if memory == "expanded":
        return x[:, :1].expand(x.shape)
    return x


@given(storages(dtypes=TYPES), st.sampled_from(MEMORY), st.integers(1, 6), seeds)
def test_cpu_product_is_a_tensor_within_the_bound(storage, memory, n, seed):
    """A @ x and x @ A.T: every dtype and stride; the type is the caller's."""
    A = TVWMatrix.from_storage(storage)
    values = random_values(np.random.default_rng(seed), (A.shape[1], n), storage.dtype)
    x = tensor_in(memory, tvt.to_tensor(values))
    y = A @ x
    assert type(y) is torch.Tensor
    assert y.dtype == (torch.int32 if x.dtype == torch.int8 else x.dtype)
    assert_product(tvt.to_array(y), storage, tvt.to_array(x))
    torch.testing.assert_close(x.T @ A.T, y.T, rtol=0, atol=0)


def test_bf16_goes_both_ways_bit_for_bit():
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16)
    array = tvt.to_array(x)
    assert array.dtype.name == "bfloat16"
    np.testing.assert_array_equal(array.view(np.int16), bits.numpy())
    back = tvt.to_tensor(array)
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16), bits)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats_go_both_ways(name):
    x = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))
    array = tvt.to_array(x)
    assert array.dtype.name == name
    assert torch.equal(tvt.to_tensor(array).view(torch.uint8), x.view(torch.uint8))


def test_arrays_that_torch_aborts_on_are_copied():
    """Negative strides, read-only and byte-swapped memory, strides between elements."""
    a = np.arange(12.0).reshape(3, 4)
    read_only = a.copy()
    read_only.flags.writeable = False
    record = np.zeros(5, np.dtype([("x", "<f4"), ("y", "u1")]))
    record["x"] = np.arange(5)
    for x in (a[::-1], a[:, ::-1], read_only, a.astype(">f8"), record["x"]):
        np.testing.assert_array_equal(tvt.to_tensor(x).numpy(), x)
    assert tvt.to_tensor(a).data_ptr() == a.ctypes.data


def test_lazily_conjugated_tensors_are_resolved():
    A = TVWMatrix(np.eye(16, dtype=np.complex64) * (1 + 2j))
    x = torch.full((16, 2), 3 - 1j, dtype=torch.complex64).conj()
    assert x.is_conj()
    torch.testing.assert_close(A @ x, torch.full((16, 2), (1 + 2j) * (3 + 1j)))


def test_types_promote_where_the_matrix_is_wider():
    A = TVWMatrix(np.eye(16, dtype=np.float32))
    assert (A @ torch.ones(16, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert (A.astype("float16") @ torch.ones(16, 2)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(40,), (40, 3), (2, 40, 3), (2, 5, 40, 3), (40, 0), (0, 40, 3)])
def test_batches_and_vectors_have_torchs_shapes(shape):
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((24, 40)), 0.5)
    dense = torch.from_numpy(A.toarray())
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(A @ x, dense @ x)
    if len(shape) > 1:
        torch.testing.assert_close(x.mT @ A.T, x.mT @ dense.T)


def test_out_takes_the_product_and_counts_as_a_change():
    A = TVWMatrix(np.eye(16) * 2)
    out = torch.empty(16, 3, dtype=torch.float64)
    version = out._version
    x = torch.randn(16, 3, dtype=torch.float64)
    assert tvwarray.matmul(A, x, out=out) is out
    assert torch.equal(out, 2 * x)
    assert out._version > version
    wide = torch.empty(3, 16, dtype=torch.float64)
    assert tvwarray.linear(x.T, A, out=wide) is wide
    assert torch.equal(wide, 2 * x.T)
    with pytest.raises(ValueError, match="out is"):
        tvwarray.linear(x.T, A, out=wide[:2])
    with pytest.raises(ValueError, match="cannot go through out="):
        tvwarray.matmul(A, x.requires_grad_(), out=out)


def test_an_epilogue_of_tensors_is_applied():
    A = TVWMatrix(np.eye(16))
    x, bias = torch.randn(16, 3, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    from tvwarray._epilogue import Epilogue

    got = tvwarray.matmul(A, x, epilogue=Epilogue(alpha=2.0, bias=bias))
    torch.testing.assert_close(got, 2 * x + bias[:, None])


@pytest.mark.parametrize("name", [None, "relu", "gelu", "gelu_tanh", "silu", "callable"])
def test_linear_has_the_functions_of_torch(name):
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((24, 40)), 0.5)
    x = torch.randn(2, 3, 40, dtype=torch.float64)
    bias = torch.randn(24, dtype=torch.float64)
    residual = torch.randn(2, 3, 24, dtype=torch.float64)
    functions = {
        None: lambda y: y,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
        "silu": torch.nn.functional.silu,
        "callable": torch.tanh,
    }
    given = torch.tanh if name == "callable" else name
    expected = functions[name](torch.nn.functional.linear(x, torch.from_numpy(A.toarray()), bias))
    got = tvwarray.linear(x, A, bias, given, residual=residual)
    torch.testing.assert_close(got, expected + residual)


def test_what_cannot_be_multiplied_says_why():
    A = TVWMatrix(np.eye(16))
    with pytest.raises(ValueError, match="X must have 16 rows"):
        A @ torch.ones(3, 2)
    with pytest.raises(ValueError, match="takes no scalar"):
        A @ torch.tensor(1.0)
    with pytest.raises(ValueError, match="its last axis must be 16"):
        torch.ones(2, 3) @ A.T
    with pytest.raises(TypeError, match=r"the tensor is sparse .* tvwarray\.TVWMatrix\(x\)"):
        A @ torch.eye(16).to_sparse()
    with pytest.raises(TypeError, match="lies on meta; products run on cpu and cuda"):
        A @ torch.ones(16, 2, device="meta")
    with pytest.raises(ValueError, match=r"bias has shape \(3,\); it must be \(16,\)"):
        tvwarray.linear(torch.ones(2, 16), A, torch.ones(3))
    with pytest.raises(ValueError, match=r"values has shape \(3,\); A stores"):
        tvt.matmul(A, torch.ones(16, 2), values=torch.ones(3))
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        tvwarray.linear(torch.ones(2, 16), A, None, "tanh")
    with pytest.raises(BackendError, match="no backend runs"):
        tvwarray.matmul(A, torch.ones(16, 2), backend="cuda")
    assert "cpu" in str(tvwarray.select_backend(A, torch.ones(16, 2, dtype=torch.float64)))


# Gradients


@settings(max_examples=6)
@given(storages(dtypes=["float64", "complex128"], max_side=6), st.booleans(), seeds)
def test_gradcheck_of_x_values_and_bias(storage, transposed, seed):
    """Against finite differences, for both operands; also once more, for second derivatives."""
    assume(all(storage.shape))  # gradcheck takes no empty tensors
    A = TVWMatrix.from_storage(storage, transposed=transposed)
    rng = np.random.default_rng(seed)
    x, bias = (
        tvt.to_tensor(random_values(rng, shape, storage.dtype)).requires_grad_()
        for shape in ((2, A.shape[1]), (A.shape[0],))
    )
    values = tvt.to_tensor(values_of(storage).copy()).requires_grad_()
    inputs = (x, values, bias)

    def layer(x, values, bias):
        return tvt.linear(x, A, bias, values=values)

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: A @ x.T, (x,))


@given(storages(dtypes=["float64"], repeats=False), seeds)
def test_gradients_are_the_dense_ones_at_the_stored_places(storage, seed):
    A = TVWMatrix.from_storage(storage)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(-4, 5, (A.shape[1], 3)).astype(float)).requires_grad_()
    dy = torch.from_numpy(rng.integers(-4, 5, (A.shape[0], 3)).astype(float))
    values = torch.from_numpy(values_of(storage).copy()).requires_grad_()
    dense = torch.from_numpy(A.toarray()).requires_grad_()
    (dense @ x).backward(dy)
    dense_dx, x.grad = x.grad, None
    tvt.matmul(A, x, values=values).backward(dy)
    assert torch.equal(x.grad, dense_dx)
    sampled = TVWMatrix.from_storage(tvt_fill(storage, values.grad)).toarray()
    expected = torch.where(dense.detach() != 0, dense.grad, 0.0)
    np.testing.assert_array_equal(sampled, expected.numpy())


def tvt_fill(storage, values):
    from tvwarray._frozen import frozen_pattern

    return frozen_pattern(storage).fill(tvt.to_array(values))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_summed_in_float32(dtype):
    """2048 terms of 1 and 2**-12: summed in 16 bits, the small ones would be lost."""
    A = TVWMatrix(np.eye(16, dtype=np.float32)).astype(str(dtype).removeprefix("torch."))
    values = tvt.to_tensor(values_of(A.storage).copy()).requires_grad_()
    x = torch.full((2048, 16), 2.0**-12, dtype=dtype)
    x[0] = 1
    y = tvt.linear(x, A, values=values)
    assert y.dtype == dtype
    y.backward(torch.ones_like(y))
    assert values.grad.dtype == dtype
    entries = values.detach() != 0
    expected = torch.tensor(1 + 2047 * 2.0**-12).to(dtype)
    assert (values.grad[entries] == expected).all()


def test_integer_tensors_have_no_gradient():
    A = TVWMatrix(np.eye(16, dtype=np.int8))
    assert not (A @ torch.ones(16, 2, dtype=torch.int8)).requires_grad


def test_a_value_changed_between_forward_and_backward_is_an_error():
    A = TVWMatrix(np.eye(16))
    values = torch.from_numpy(values_of(A.storage).copy()).requires_grad_()
    x = torch.ones(2, 16, dtype=torch.float64, requires_grad=True)
    y = tvt.linear(x, A, values=values)
    with torch.no_grad():
        values += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_vmap_grad_and_jacobians_of_torch_func():
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((24, 40)), 0.5)
    dense = torch.from_numpy(A.toarray())
    x = torch.randn(6, 40, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(lambda v: A @ v)(x), x @ dense.T)
    torch.testing.assert_close(torch.func.jacrev(lambda v: A @ v)(x[0]), dense)
    values = torch.from_numpy(values_of(A.storage).copy())

    def loss(values, v):
        return (tvt.linear(v[None], A, values=values) ** 2).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, x)
    for gradient, v in zip(each, x, strict=True):
        torch.testing.assert_close(gradient, torch.func.grad(loss)(values, v))
    both = torch.func.vmap(lambda w, v: tvt.linear(v[None], A, values=w))
    torch.testing.assert_close(
        both(torch.stack([values, 2 * values]), x[:2]),
        torch.stack([x[:1] @ dense.T, 2 * x[1:2] @ dense.T]),
    )


def test_compiled_functions_fall_back_around_the_product():
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((24, 40)), 0.5)
    compiled = torch.compile(lambda x: torch.relu(tvt.matmul(A, x + 1)) * 2, backend="eager")
    x = torch.randn(40, 3, dtype=torch.float64)
    expected = torch.relu(torch.from_numpy(A.toarray()) @ (x + 1)) * 2
    torch.testing.assert_close(compiled(x), expected)
    operator = torch.compile(lambda x: (A @ (x + 1)) * 2, backend="eager")
    torch.testing.assert_close(operator(x), 2 * torch.from_numpy(A.toarray()) @ (x + 1))


@pytest.mark.gpu
def test_cuda_tensors_go_by_dlpack_without_copies():
    import cupy

    W = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float16)
    A = tvwarray.sparsify(W, 0.75)
    x = torch.randn(256, 64, device="cuda", dtype=torch.float16)
    array = tvt.to_array(x)
    assert isinstance(array, cupy.ndarray)
    assert array.data.ptr == x.data_ptr()
    assert tvt.to_tensor(array).data_ptr() == x.data_ptr()
    y = A.to_device(x) @ x
    assert y.device == x.device
    assert y.dtype == x.dtype
    with pytest.raises(BackendError, match="to_device"):
        A @ x
