"""
Prune a PyTorch model in stages
===============================

A small network learns to imitate a random one. It is pruned to 50 and 75 % by Taylor scores, with
fine-tuning after each stage; then its layers become TVW matrices.

.. code-block:: console

    pip install "tvwarray[torch]" && python examples/frameworks/prune_torch.py
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

import tvwarray
from tvwarray import prune


class Mask(nn.Module):
    """What stands between a weight and its layer: gradients reach the weight through the mask."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


class TorchModel:
    """The six methods that `StagePruner` asks for."""

    def __init__(self, model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        for layer in self.layers.values():
            parametrize.register_parametrization(layer, "weight", Mask(layer.weight))

    def scores(self) -> dict[str, np.ndarray]:
        """Return |w * dL/dw| of the weights that compute now, over four batches."""
        added = prune.ScoreAccumulator("abs")
        for batch in torch.arange(len(self.x)).chunk(4):
            with parametrize.cached():  # one tensor a layer, so that it has one gradient
                weights = {n: m.weight for n, m in self.layers.items()}
                gradients = torch.autograd.grad(self._loss(batch), list(weights.values()))
            added.add(
                {n: w.detach() for n, w in weights.items()},
                dict(zip(weights, gradients, strict=True)),
            )
        return added.scores()

    def apply(self, masks: Mapping[str, np.ndarray]) -> None:
        for name, layer in self.layers.items():
            layer.parametrizations.weight[0].mask.copy_(torch.from_numpy(masks[name]))

    def train(self, record: prune.StageRecord | None = None, steps: int = 150) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            self._loss(torch.randint(len(self.x), (256,))).backward()
            optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the share of the variance that is explained; 1 is perfect."""
        return 1 - float(self._loss(slice(None)) / self.y.var())

    def state(self) -> dict[str, np.ndarray]:
        return {n: x.numpy() for n, x in self.model.state_dict().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.model.load_state_dict({n: torch.tensor(x) for n, x in state.items()})

    def _loss(self, rows: torch.Tensor | slice) -> torch.Tensor:
        return nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])


def main(state_file: str | None = None) -> tuple[TorchModel, prune.StagePruner]:
    """Train, prune in stages, and check the products; return the model and the driver."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4))
    x = torch.randn(2048, 64)
    with torch.no_grad():
        y = teacher(x)
    model = TorchModel(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)), x, y)
    model.train(steps=300)
    pruner = prune.StagePruner(
        prune.paper_stages("nmt", 0.75, first=0.5),
        prune.TileVectorWise(64),
        accept=0.05,
        retries=2,
        state_file=state_file,
        callbacks=[lambda r: print(f"{r.sparsity:.1%} pruned: {r.pruned:.3f} -> {r.metric:.3f}")],
    )
    print(f"dense: {model.evaluate():.3f}")
    selections = pruner.run(model)

    weights = {n: m.weight.detach() for n, m in model.layers.items()}
    pruned = tvwarray.sparsify_model(weights, selections=selections)
    for name, W in weights.items():
        inputs = torch.randn(W.shape[1], 8)
        product = torch.from_numpy(pruned.matrices[name] @ inputs.numpy())
        torch.testing.assert_close(product, W @ inputs)
    return model, pruner


if __name__ == "__main__":
    main()
