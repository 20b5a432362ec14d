"""
Prune a JAX model in stages
===========================

A small network learns to imitate a random one. It is pruned to 50 and 75 % by Taylor scores, with
fine-tuning after each stage; then its layers become TVW matrices. Weights are (outputs, inputs).

.. code-block:: console

    pip install "tvwarray[jax]" && python examples/frameworks/prune_jax.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tvwarray
from tvwarray import prune

Params = dict[str, jax.Array]
LAYERS = ("hidden", "out")


def network(params: Params, x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["hidden"].T + params["hidden bias"])
    return hidden @ params["out"].T + params["out bias"]


def loss(params: Params, masks: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    masked = params | {n: params[n] * masks[n] for n in LAYERS}
    return jnp.mean((network(masked, x) - y) ** 2)


@jax.jit
def descend(params: Params, masks: Params, x: jax.Array, y: jax.Array, keys: jax.Array) -> Params:
    """Return parameters after a step of Adam for each key, which draws the batch."""

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        params, first, second, count = state
        rows = jax.random.randint(key, (256,), 0, len(x))
        gradients = jax.grad(loss)(params, masks, x[rows], y[rows])
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        rate = 2e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, first, second
        )
        return (params, first, second, count + 1), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(step, (params, zeros, zeros, jnp.ones(())), keys)[0][0]


class JaxModel:
    """The six methods that `StagePruner` asks for."""

    def __init__(self, params: Params, x: jax.Array, y: jax.Array) -> None:
        self.params, self.x, self.y = params, x, y
        self.masks: Params = {n: jnp.ones_like(params[n]) for n in LAYERS}
        self.key = jax.random.key(0)

    def scores(self) -> dict[str, np.ndarray]:
        """Return |w * dL/dw| of the weights that compute now, over four batches."""
        added = prune.ScoreAccumulator("abs")
        weights = {n: self.params[n] * self.masks[n] for n in LAYERS}
        everything = {n: jnp.ones_like(m) for n, m in self.masks.items()}
        for x, y in zip(jnp.split(self.x, 4), jnp.split(self.y, 4), strict=True):
            gradients = jax.grad(loss)(self.params | weights, everything, x, y)
            added.add(weights, {n: gradients[n] for n in LAYERS})
        return added.scores()

    def apply(self, masks: Mapping[str, np.ndarray]) -> None:
        self.masks = {n: jnp.asarray(m, jnp.float32) for n, m in masks.items()}

    def train(self, record: prune.StageRecord | None = None, steps: int = 150) -> None:
        keys = jax.random.split(self.key, steps)
        self.params = descend(self.params, self.masks, self.x, self.y, keys)
        self.key = jax.random.fold_in(self.key, 1)

    def evaluate(self) -> float:
        """Return the share of the variance that is explained; 1 is perfect."""
        return 1 - float(loss(self.params, self.masks, self.x, self.y) / self.y.var())

    def state(self) -> Params:
        return self.params

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.params = {n: jnp.asarray(x) for n, x in state.items()}


def main(state_file: str | None = None) -> tuple[JaxModel, prune.StagePruner]:
    """Train, prune in stages, and check the products; return the model and the driver."""
    keys = iter(jax.random.split(jax.random.key(1), 8))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape) / shape[-1] ** 0.5

    x = jax.random.normal(next(keys), (2048, 64))
    y = jnp.tanh(x @ normal(8, 64).T) @ normal(4, 8).T
    params = {"hidden": normal(256, 64), "out": normal(4, 256)}
    params |= {"hidden bias": jnp.zeros(256), "out bias": jnp.zeros(4)}
    model = JaxModel(params, x, y)
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

    weights = {n: model.params[n] for n in LAYERS}
    pruned = tvwarray.sparsify_model(weights, selections=selections)
    for name, W in weights.items():
        inputs = normal(W.shape[1], 8)
        product = pruned.matrices[name] @ np.asarray(inputs)
        masked = W * model.masks[name]
        np.testing.assert_allclose(product, masked @ inputs, rtol=1e-4, atol=1e-5)
    return model, pruner


if __name__ == "__main__":
    main()
