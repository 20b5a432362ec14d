"""Schedules: the sparsities of the stages of a pruning, ascending, each followed by fine-tuning.

Pruning in stages loses less than pruning at once: scores are measured anew on weights that have
adapted to the sparsity so far.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

from tvwarray._errors import FormatError

Schedule = tuple[float, ...]

PaperStages = Literal["vgg", "bert", "nmt", "resnet", "vit"]

_RESNET: Final = (25, 50, 60, 65, 70, 75, 80, 85, 90, 92, 94, 96)

_PAPER: Final[dict[str, tuple[float, ...]]] = {
    "vgg": (25, 40, 50, 60, 65, 70, 75, 80, 85, 90, 92, 94, 96),
    "bert": (25, 35, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95),
    "nmt": (25, 37.5, 50, 62.5, 75, 87.5, 93.75),
    "resnet": _RESNET,
    "vit": _RESNET,
}


def one_shot(sparsity: float) -> Schedule:
    """Return the schedule of a single stage."""
    return checked_schedule((sparsity,))


def paper_stages(model: PaperStages, final: float, *, first: float = 0.0) -> Schedule:
    """Return the stages that the papers on tile-wise sparsity [1]_ [2]_ used for a kind of model.

    Parameters
    ----------
    model : {"vgg", "bert", "nmt", "resnet", "vit"}
    final : float
        The sparsity to end with; it closes the list where the papers' has no such stage.
    first : float
        Leave stages below this sparsity out: 0.5 for patterns with 2:4, which reach no less.

    References
    ----------
    .. [1] C. Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise
       Sparsity", SC 2020.
    .. [2] C. Guo et al., "Accelerating Sparse DNNs Based on Tiled GEMM", IEEE Trans. Computers,
       2024.

    Examples
    --------
    >>> from tvwarray.prune import paper_stages
    >>> paper_stages("nmt", 0.75, first=0.5)
    (0.5, 0.625, 0.75)
    """
    if model not in _PAPER:
        raise FormatError(f"model is {model!r}; there are stages for {', '.join(_PAPER)}.")
    between = (s / 100 for s in _PAPER[model])
    return checked_schedule((*(s for s in between if first <= s < final), final))


def cubic(final: float, stages: int, *, initial: float = 0.0) -> Schedule:
    """Return stages that rise fast at first and slowly in the end [1]_.

    Stage t of n prunes ``final + (initial - final) * (1 - t / n) ** 3``, t = 1, ..., n.

    Parameters
    ----------
    final : float
        The sparsity of the last stage.
    stages : int
        How many there are.
    initial : float
        The sparsity before the first stage.

    References
    ----------
    .. [1] M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
       compression", ICLR Workshop 2018.

    Examples
    --------
    >>> from tvwarray.prune import cubic
    >>> [round(s, 3) for s in cubic(0.9, 4, initial=0.5)]
    [0.731, 0.85, 0.894, 0.9]
    """
    if stages < 1:
        raise FormatError(f"stages is {stages}; a schedule has at least 1.")
    if not 0 <= initial < final:
        raise FormatError(f"initial is {initial}; it is at least 0 and less than final, {final}.")
    steps = ((1 - t / stages) ** 3 for t in range(1, stages + 1))
    return checked_schedule(tuple(final + (initial - final) * step for step in steps))


def checked_schedule(schedule: Schedule) -> Schedule:
    """Return `schedule` as a tuple of floats if its sparsities ascend.

    Raises
    ------
    FormatError
        If it is empty, leaves 0 to 1, or does not ascend.
    """
    stages = tuple(float(s) for s in schedule)
    if not stages or not all(0 <= s <= 1 for s in stages):
        raise FormatError(f"schedule is {stages}; it holds sparsities from 0 to 1, one at least.")
    for earlier, later in pairwise(stages):
        if later <= earlier:
            raise FormatError(f"schedule has {later:g} after {earlier:g}; sparsities must ascend.")
    return stages
