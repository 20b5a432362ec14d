"""The two tasks: ratings of sentences by a small encoder, digits by a small network.

A task has a model to be pruned, batches of its training split, and a metric on the validation and
the test split. Splits, batches and the weights that are not given are drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from masked import Batch, MaskedLinear
from torch import nn
from torch.nn import functional

Data = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    model: nn.Module
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    batches: Callable[[int], Iterator[Batch]]
    metric: Callable[[nn.Module, str], float]
    """On the split "validation" or "test"."""
    dense_steps: int
    dense_rate: float
    rate: float
    """The learning rate of fine-tuning."""


def text(data: Data, seed: int, device: str) -> Task:
    """Regression of the mean rating of a sentence; the metric is Pearson's r."""
    ends, ratings = data["text/ends"], data["text/ratings"]
    tokens = [data["text/tokens"][a:b] for a, b in pairwise(ends)]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(tokens))
    splits = {"test": order[:2000], "validation": order[2000:3000], "train": order[3000:]}
    torch.manual_seed(seed)
    model = Regressor(data).to(device)

    def batch(chosen: np.ndarray) -> Batch:
        longest = max(len(tokens[i]) for i in chosen)
        ids = np.zeros((len(chosen), longest), np.int64)
        mask = np.zeros((len(chosen), longest), np.bool_)
        for row, i in enumerate(chosen):
            ids[row, : len(tokens[i])] = tokens[i]
            mask[row, : len(tokens[i])] = True
        target = torch.from_numpy(ratings[chosen])
        return tuple(x.to(device) for x in (torch.from_numpy(ids), torch.from_numpy(mask), target))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        ids, mask, target = batch
        return functional.mse_loss(model(ids, mask), target)

    by_length = {
        name: sorted(splits[name], key=lambda i: len(tokens[i])) for name in ("validation", "test")
    }
    held = {
        name: [batch(np.array(rows[i : i + 500])) for i in range(0, len(rows), 500)]
        for name, rows in by_length.items()
    }

    @torch.no_grad()
    def metric(model: nn.Module, split: str) -> float:
        said = torch.cat([model(ids, mask) for ids, mask, _ in held[split]]).cpu().numpy()
        true = torch.cat([target for _, _, target in held[split]]).cpu().numpy()
        # A model that says the same of all sentences knows nothing: r is 0 rather than 0 / 0.
        return float(np.corrcoef(said, true)[0, 1]) if said.std() > 0 else 0.0

    chunks = _chunks(splits["train"], rng, key=lambda i: len(tokens[i]))
    return Task(
        model, loss, _taking(chunks, batch), metric, dense_steps=594, dense_rate=2e-4, rate=3e-4
    )


def images(data: Data, seed: int, device: str) -> Task:
    """Classification of digits; the metric is the share that is right."""
    pixels = np.pad(data["images/pixels"].astype(np.float32) / 255, ((0, 0), (0, 16)))
    digits = data["images/digits"].astype(np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits))
    splits = {"test": order[:1500], "validation": order[1500:2000], "train": order[2000:]}
    torch.manual_seed(seed)
    layers = [MaskedLinear(800, 512), nn.ReLU(), MaskedLinear(512, 512), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(512, 10)).to(device)

    def batch(chosen: np.ndarray) -> Batch:
        return tuple(torch.from_numpy(x[chosen]).to(device) for x in (pixels, digits))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    held = {name: batch(splits[name]) for name in ("validation", "test")}

    @torch.no_grad()
    def metric(model: nn.Module, split: str) -> float:
        x, y = held[split]
        return float((model(x).argmax(1) == y).float().mean())

    chunks = _chunks(splits["train"], rng, key=lambda i: 0)
    return Task(
        model, loss, _taking(chunks, batch), metric, dense_steps=600, dense_rate=1e-3, rate=1e-3
    )


TASKS: dict[str, Callable[[Data, int, str], Task]] = {"text": text, "images": images}


class Regressor(nn.Module):
    """The encoder, the mean of its outputs, and a number; only the encoder's layers are pruned."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        given = {
            n.removeprefix("encoder/"): _tensor(x)
            for n, x in data.items()
            if n.startswith("encoder/")
        }
        width = given["embeddings.LayerNorm.weight"].numel()
        self.words = nn.Embedding.from_pretrained(given["embeddings.word_embeddings.weight"])
        places = given["embeddings.position_embeddings.weight"]
        kinds = given["embeddings.token_type_embeddings.weight"]
        self.register_buffer("places", places + kinds[0])
        self.norm = _norm(given, "embeddings.LayerNorm").requires_grad_(False)
        layers = {n.split(".")[2] for n in given if n.startswith("encoder.layer.")}
        self.layers = nn.ModuleList(
            EncoderLayer(given, f"encoder.layer.{i}") for i in range(len(layers))
        )
        self.head = nn.Linear(width, 1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(ids) + self.places[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        weight = mask[:, :, None].to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1))[:, 0]


class EncoderLayer(nn.Module):
    """A layer of BERT, without dropout: the budgets are short."""

    HEADS = 12

    def __init__(self, given: dict[str, torch.Tensor], name: str) -> None:
        super().__init__()
        inside = f"{name}.attention"
        self.query = _linear(given, f"{inside}.self.query")
        self.key = _linear(given, f"{inside}.self.key")
        self.value = _linear(given, f"{inside}.self.value")
        self.mix = _linear(given, f"{inside}.output.dense")
        self.norm1 = _norm(given, f"{inside}.output.LayerNorm")
        self.up = _linear(given, f"{name}.intermediate.dense")
        self.down = _linear(given, f"{name}.output.dense")
        self.norm2 = _norm(given, f"{name}.output.LayerNorm")

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        heads = (*x.shape[:2], self.HEADS, -1)
        q, k, v = (f(x).view(heads).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.norm1(x + self.mix(mixed.transpose(1, 2).reshape(x.shape)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


def _chunks(rows: np.ndarray, rng: np.random.Generator, key: Any, size: int = 32) -> Iterator[Any]:
    """Yield batches without end, each of rows alike by `key`; 32 batches are sorted at a time."""
    while True:
        chosen = rng.permutation(rows)[: 32 * size]
        ordered = np.array(sorted(chosen, key=key))
        made = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        yield from (made[i] for i in rng.permutation(len(made)))


def _taking(
    chunks: Iterator[np.ndarray], batch: Callable[[np.ndarray], Batch]
) -> Callable[[int], Iterator[Batch]]:
    return lambda steps: (batch(next(chunks)) for _ in range(steps))


def _linear(given: dict[str, torch.Tensor], name: str) -> MaskedLinear:
    weight = given[f"{name}.weight"]
    layer = MaskedLinear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(given[f"{name}.bias"])
    return layer


def _norm(given: dict[str, torch.Tensor], name: str) -> nn.LayerNorm:
    weight = given[f"{name}.weight"]
    norm = nn.LayerNorm(weight.numel(), eps=1e-12)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(given[f"{name}.bias"])
    return norm


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32) if x.dtype == np.float16 else x)
