"""
Planning for a GPU that is not there
====================================

``plan`` chooses the kernel for a product and predicts its time from a model of the GPU: no GPU, no
driver and no CuPy are needed. Here for a layer of a language model, over the number of tokens.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

import tvwarray

W = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
layers = {s: tvwarray.sparsify(W, s, permute=False).astype(np.float16) for s in (0.75, 0.875, 0.95)}

# %%
# A plan is text for people, and data for programs: the kernel, its shape, what bounds it, and what
# the dense product would take there.

print(tvwarray.plan(layers[0.75], 4096, device="H200"))

# %%
# Times by the model, for two GPUs. Each line is a choice made anew for every n: few tokens are read
# by another kernel than many.

counts = 2 ** np.arange(15)
styles = {0.75: ("#0072b2", "o"), 0.875: ("#d55e00", "s"), 0.95: ("#009e73", "^")}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for ax, device in zip(axes, ("A100", "H200"), strict=True):
    ax.axhspan(0.1, 1, color="#8a8f98", alpha=0.15)
    for sparsity, A in layers.items():
        plans = [tvwarray.plan(A, int(n), device=device).gpu for n in counts]
        color, marker = styles[sparsity]
        ax.plot(counts, [p.dense_seconds / p.seconds for p in plans], color=color, marker=marker,
                ms=4, label=f"{100 * sparsity:g} % pruned")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(counts[::2], [f"{n}" if n < 1024 else f"{n // 1024}k" for n in counts[::2]])
    ax.set_xlabel("tokens n")
    ax.set_title(f"{device}, 4096 x 4096, float16")
    ax.text(counts[-1], 0.96, "dense is faster", ha="right", va="top", fontsize=8)
ticks = (0.5, 1, 2, 5, 10)
axes[0].set_yticks(ticks, [f"{t:g}x" for t in ticks])
axes[0].set_yticks([], minor=True)
axes[0].set_ylim(0.7)
axes[0].set_ylabel("predicted, times as fast as dense")
axes[1].legend()
plt.show()

# %%
# Where the model says that the dense product wins, ``plan`` says so too, and so does a product that
# falls back to it. What was measured on an H200 beside what was predicted: :doc:`/benchmarks`.
