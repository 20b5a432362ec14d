"""TVWLinear and replace_linear: as the masked dense layer, through everything torch does to it."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

import tvwarray  # noqa: E402
from tvwarray import FormatError, TVWMatrix  # noqa: E402
from tvwarray.torch import TVWLinear, replace_linear  # noqa: E402


def masked_pair(rows=48, cols=64, *, kept=0.25, dtype=torch.float32, seed=0):
    """Return a dense layer with zeros under its mask, the mask, and the sparse layer of both."""
    torch.manual_seed(seed)
    dense = nn.Linear(cols, rows).to(dtype)
    mask = torch.rand(rows, cols) < kept
    with torch.no_grad():
        dense.weight *= mask
    return dense, mask, TVWLinear.from_linear(dense, mask)


def assert_within_bound(got, dense, x, slack=1.0):
    """Both sum in float32: at most cols + 2 roundings of u = 2**-24 each, on either side."""
    exact = x.double() @ dense.weight.double().T + dense.bias.double()
    size = x.double().abs() @ dense.weight.double().abs().T + dense.bias.double().abs()
    assert ((got.double() - exact).abs() <= slack * (x.shape[-1] + 2) * 2.0**-24 * size).all()


@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 3, 64), (0, 64)])
def test_outputs_are_those_of_the_masked_layer(shape):
    dense, _, layer = masked_pair()
    x = torch.randn(shape)
    y = layer(x)
    assert y.shape == dense(x).shape
    assert_within_bound(y.detach(), dense, x)


def test_a_dense_layer_goes_in_and_comes_back():
    dense, _, layer = masked_pair()
    assert (layer.in_features, layer.out_features) == (64, 48)
    assert torch.equal(torch.from_numpy(layer.to_matrix().toarray()), dense.weight)
    back = layer.to_linear()
    assert torch.equal(back.weight, dense.weight)
    assert torch.equal(back.bias, dense.bias)
    assert "in_features=64, out_features=48, bias=True" in repr(layer)
    unmasked = TVWLinear.from_linear(dense)
    assert torch.equal(unmasked.to_linear().weight, dense.weight)
    assert TVWLinear.from_linear(nn.Linear(8, 4, bias=False)).to_linear().bias is None


def test_gradients_are_those_of_the_masked_layer():
    """Weights of zero inside the mask are trained; what the mask leaves out is not."""
    dense, mask, layer = masked_pair()
    with torch.no_grad():
        dense.weight[mask.nonzero(as_tuple=True)[0][0], mask.nonzero(as_tuple=True)[1][0]] = 0
    layer = TVWLinear.from_linear(dense, mask)
    x = torch.randn(7, 64)
    dy = torch.randn(7, 48)
    dense(x).backward(dy)
    layer(x).backward(dy)
    gradient = layer.values.grad
    as_matrix = TVWMatrix.from_storage(layer._weights().pattern.fill(gradient.numpy())).toarray()
    expected = torch.where(mask, dense.weight.grad, 0.0)
    torch.testing.assert_close(torch.from_numpy(as_matrix), expected)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad)


def test_gradcheck_of_the_layer():
    _, _, layer = masked_pair(12, 16, dtype=torch.float64)
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)

    def run(x, values, bias):
        return torch.func.functional_call(layer, {"values": values, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.values, layer.bias))


def test_places_outside_the_mask_are_zero_whatever_is_written_there():
    _, mask, layer = masked_pair()
    with torch.no_grad():
        layer.values.fill_(1.0)
    got = torch.from_numpy(layer.to_matrix().toarray())
    assert torch.equal(got, mask.float())
    torch.testing.assert_close(layer(torch.eye(64)) - layer.bias, mask.float().T)


def test_an_optimiser_step_is_seen_by_the_next_product():
    _, _, layer = masked_pair()
    x = torch.randn(4, 64)
    before = layer(x).detach().clone()
    layer.eval()
    with torch.no_grad():
        layer.values.mul_(2)
    torch.testing.assert_close(layer(x) - layer.bias, 2 * (before - layer.bias))
    with torch.inference_mode():
        torch.testing.assert_close(layer(x) - layer.bias, 2 * (before - layer.bias))


def test_fine_tuning_reaches_the_accuracy_of_masked_dense_training():
    """The same start, data and optimiser: equal but for rounding, so is the accuracy."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(5, 32, generator=generator)
    labels = torch.randint(5, (400,), generator=generator)
    points = centres[labels] + 1.2 * torch.randn(400, 32, generator=generator)

    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5))
    weights = {"0.weight": dense[0].weight, "2.weight": dense[2].weight}
    masks = {name: w.detach().abs() > w.detach().abs().quantile(0.7) for name, w in weights.items()}
    with torch.no_grad():
        for name, w in weights.items():
            w *= masks[name]
    sparse = replace_linear(copy.deepcopy(dense), masks)

    def fit(model, after_step):
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(points[:300]), labels[:300]).backward()
            optimiser.step()
            after_step()
        return (model(points[300:]).argmax(1) == labels[300:]).float().mean().item()

    def mask_again():
        with torch.no_grad():
            for name, w in weights.items():
                w *= masks[name]

    untrained = (sparse(points[300:]).argmax(1) == labels[300:]).float().mean().item()
    dense_accuracy = fit(dense, mask_again)
    sparse_accuracy = fit(sparse, lambda: None)
    assert dense_accuracy > 0.9 > 0.5 > untrained
    assert abs(sparse_accuracy - dense_accuracy) <= 0.01
    # Adam divides by the size of gradients, so differences of rounding are not below 1e-3.
    torch.testing.assert_close(sparse[0].to_linear().weight, dense[0].weight, rtol=0.02, atol=0.02)


def test_the_state_goes_through_a_file_with_its_pattern():
    _, _, layer = masked_pair()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = TVWLinear(tvwarray.sparsify(np.ones((48, 64), np.float32), 0.5), torch.zeros(48))
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(3, 64)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.to_linear().weight, layer.to_linear().weight)


def test_a_state_with_a_remainder_is_loaded():
    import scipy.sparse as sp

    beside = sp.csr_array(([5.0], ([3], [4])), shape=(16, 32))
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((16, 32)), 0.5)
    layer = TVWLinear(A.with_remainder(beside))
    x = torch.randn(2, 32, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ torch.from_numpy(layer.to_matrix().toarray()).T)
    other = TVWLinear(A)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("broken", ["rows", "meta", "values", "shape", "missing", "header", "mark"])
def test_a_broken_state_changes_nothing(broken):
    _, _, layer = masked_pair()
    state = {name: x.clone() for name, x in layer.state_dict().items()}
    if broken == "rows":
        state["row_indices"][0] = 10**6
    elif broken == "meta":
        state["meta"] = torch.zeros_like(state["meta"])
    elif broken == "values":
        state["values"] = state["values"][:-1]
    elif broken == "shape":
        state["header"][0] += 1
    elif broken == "missing":
        del state["col_indices"]
    elif broken == "header":
        state["header"] = state["header"][:3]
    else:
        state["entries"] = state["entries"][:-1]
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=r"no matrix|the layer's"):
        layer.load_state_dict(state)
    for name, x in layer.state_dict().items():
        assert torch.equal(x.view(torch.uint8), before[name].view(torch.uint8)) or x.numel() == 0


def test_copies_and_pickles_are_layers_of_their_own():
    _, _, layer = masked_pair()
    x = torch.randn(3, 64)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), y)
        with torch.no_grad():
            other.values.zero_()
        assert torch.equal(layer(x), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_layer_changes_its_precision(dtype):
    dense, _, layer = masked_pair()
    layer.to(dtype)
    assert layer.values.dtype == dtype
    assert layer.row_indices.dtype == torch.int32
    x = torch.randn(3, 64).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    roundoff = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}[dtype]
    weight, bias = dense.weight.to(dtype).double(), dense.bias.to(dtype).double()
    exact, size = x.double() @ weight.T + bias, x.double().abs() @ weight.abs().T + bias.abs()
    summing = min(2.0**-24, roundoff) * 68
    assert ((y.double() - exact).abs() <= (summing + roundoff) * size + 1e-7).all()
    y.sum().backward()
    assert layer.values.grad.dtype == dtype


def test_autocast_gives_its_type():
    dense, _, layer = masked_pair()
    x = torch.randn(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = layer(x), dense(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_models_run_the_layer_between_two_graphs():
    _, _, layer = masked_pair()
    model = nn.Sequential(nn.LayerNorm(64), layer, nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(4, 64)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert layer.values.grad.abs().sum() > 0
    from torch._dynamo.utils import counters

    assert sum(counters["graph_break"].values()) >= 1


def test_values_made_in_inference_mode_are_read_each_time():
    with torch.inference_mode():
        layer = TVWLinear(TVWMatrix(np.eye(16, dtype=np.float32)))
        x = torch.ones(2, 16)
        assert torch.equal(layer(x), x)
        layer.values.mul_(3)
        assert torch.equal(layer(x), 3 * x)


def test_writes_past_the_version_counter_are_seen():
    layer = TVWLinear(TVWMatrix(np.eye(16, dtype=np.float32)))
    x = torch.ones(2, 16)
    assert torch.equal(layer(x), x)
    layer.values.data.mul_(2)
    assert torch.equal(layer(x), 2 * x)


def test_layers_that_are_frozen_stay_frozen():
    dense = nn.Linear(16, 16)
    dense.weight.requires_grad_(False)
    layer = TVWLinear.from_linear(dense.eval())
    assert not layer.values.requires_grad
    assert layer.bias.requires_grad
    assert not layer.training


def test_an_integer_matrix_makes_a_layer_without_gradient():
    layer = TVWLinear(TVWMatrix(np.eye(16, dtype=np.int8)))
    assert layer(torch.ones(2, 16, dtype=torch.int8)).dtype == torch.int32


def test_replace_linear_takes_masks_by_layer_or_weight_and_matrices():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Sequential(nn.Linear(48, 16)))
    first = torch.rand(48, 32) < 0.3
    A = tvwarray.sparsify(model[2][0].weight.detach().numpy(), 0.5)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked[0].weight *= first
        masked[2][0].weight.copy_(torch.from_numpy(A.toarray()))
    assert replace_linear(model, {"0.weight": first.numpy(), "2.0": A}) is model
    assert isinstance(model[0], TVWLinear)
    assert isinstance(model[2][0], TVWLinear)
    x = torch.randn(9, 32)
    torch.testing.assert_close(model(x), masked(x))
    assert {name for name, _ in model.named_parameters()} == {
        "0.values", "0.bias", "2.0.values", "2.0.bias"
    }  # fmt: skip


def test_replace_linear_replaces_a_layer_wherever_it_is_used():
    shared = nn.Linear(16, 16)
    model = nn.ModuleDict({"a": shared, "b": shared})
    replace_linear(model, {"a": torch.eye(16).bool()})
    assert model["a"] is model["b"]
    assert isinstance(model["b"], TVWLinear)
    assert isinstance(replace_linear(nn.Linear(4, 4), {"weight": torch.eye(4).bool()}), TVWLinear)


def test_replace_linear_refuses_and_changes_nothing():
    good = torch.eye(16).bool()
    tied = nn.ModuleDict({"embed": nn.Embedding(16, 16), "out": nn.Linear(16, 16)})
    tied["out"].weight = tied["embed"].weight
    attention = nn.ModuleDict({"a": nn.Linear(16, 16), "mha": nn.MultiheadAttention(16, 2)})
    cases = [
        (nn.ModuleDict({"a": nn.Linear(16, 16)}), "b", good, KeyError, "no module of the model"),
        (tied, "out", good, ValueError, "untie it first"),
        (attention, "mha.out_proj", good, TypeError, "no plain torch.nn.Linear"),
        (nn.ModuleDict({"a": nn.Linear(16, 16)}), "a", good[:3], FormatError, "it must be bool"),
        (nn.ModuleDict({"a": nn.Linear(16, 16)}), "a", good.float(), FormatError, "a: mask is"),
        (nn.ModuleDict({"a": nn.Linear(16, 16)}), "a", TVWMatrix((3, 3)), FormatError, "weight"),
    ]
    for model, name, mask, error, message in cases:
        first = {"a": good} if "a" in dict(model.named_modules()) and name != "a" else {}
        with pytest.raises(error, match=message):
            replace_linear(model, {**first, name: mask})
        assert not any(isinstance(m, TVWLinear) for m in model.modules())


def test_what_makes_no_layer_says_why():
    A = TVWMatrix(np.ones((16, 32), np.float32))
    with pytest.raises(FormatError, match=r"A\.T"):
        TVWLinear(A.T)
    with pytest.raises(ValueError, match=r"bias has shape \(3,\)"):
        TVWLinear(A, torch.ones(3))
    with pytest.raises(ValueError, match="its last axis must be 32"):
        TVWLinear(A)(torch.ones(2, 5))
