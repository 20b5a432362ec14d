"""A PyTorch model as `StagePruner` takes it: masked layers, Taylor scores, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn

from tvwarray.prune import ScoreAccumulator
from tvwarray.prune.state import StageRecord

Batch = tuple[torch.Tensor, ...]


class MaskedLinear(nn.Linear):
    """A linear layer that computes with the weights under its mask.

    Those outside keep their values, and while scores are measured they receive gradients as well
    (straight through the mask), so that they may return.
    """

    mask: torch.Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs))
        self.effective: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.effective if self.effective is not None else self.weight * self.mask
        return nn.functional.linear(x, weight, self.bias)


class PrunedModel:
    """What `StagePruner` asks for, over a model of `MaskedLinear` layers.

    Parameters
    ----------
    model : nn.Module
    loss : callable
        From the model and a batch to its loss.
    batches : callable
        From a number of steps to so many training batches, endless in kind, seeded by the caller.
    metric : callable
        From the model to the metric on the validation split.
    steps, rate : int, float
        The fine-tuning of a stage: AdamW, the rate rising over the first tenth and falling to zero.
    score_batches : int
        Over so many batches the scores of a stage are added up.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Batch], torch.Tensor],
        batches: Callable[[int], Iterable[Batch]],
        metric: Callable[[nn.Module], float],
        *,
        steps: int,
        rate: float,
        score_batches: int = 12,
    ) -> None:
        self.model, self.loss, self.batches, self.metric = model, loss, batches, metric
        self.steps, self.rate, self.score_batches = steps, rate, score_batches
        self.layers = {n: m for n, m in model.named_modules() if isinstance(m, MaskedLinear)}

    def scores(self) -> dict[str, np.ndarray]:
        """Return the sum over batches of ``|w * dL/dw|``, dense gradients at the masked weights."""
        added = ScoreAccumulator("abs")
        weights = {n: layer.weight.detach() for n, layer in self.layers.items()}
        for layer in self.layers.values():
            layer.effective = (layer.weight.detach() * layer.mask).requires_grad_()
        for batch in self.batches(self.score_batches):
            self.loss(self.model, batch).backward()
            gradients = {n: m.effective.grad for n, m in self.layers.items()}
            added.add(weights, gradients)
            self.model.zero_grad(set_to_none=True)
            for layer in self.layers.values():
                layer.effective.grad = None
        for layer in self.layers.values():
            layer.effective = None
        return added.scores()

    def apply(self, masks: Mapping[str, np.ndarray]) -> None:
        for name, layer in self.layers.items():
            layer.mask.copy_(torch.from_numpy(masks[name]))

    def train(self, record: StageRecord | None, steps: int | None = None) -> None:
        train(self.model, self.loss, self.batches, steps or self.steps, self.rate)

    def evaluate(self) -> float:
        return self.metric(self.model)

    def state(self) -> dict[str, np.ndarray]:
        return {n: x.detach().cpu().numpy() for n, x in self.model.state_dict().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.model.load_state_dict({n: torch.tensor(x) for n, x in state.items()})


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], torch.Tensor],
    batches: Callable[[int], Iterable[Batch]],
    steps: int,
    rate: float,
) -> None:
    """Train for `steps` batches."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, 10 * (i + 1) / steps) * (1 - i / steps)
    )
    for batch in batches(steps):
        optimizer.zero_grad(set_to_none=True)
        loss(model, batch).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
