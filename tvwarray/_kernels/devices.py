"""What the choice of a kernel depends on: a GPU, as data; and the GPUs known by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Device:
    """A GPU."""

    architecture: str
    """Compute capability without the dot: "80", "90"."""
    multiprocessors: int
    shared_per_block: int
    """Bytes of shared memory that one block may have at most."""
    shared_per_multiprocessor: int
    l2_bytes: int
    clock: float = 1.7e9
    """Cycles a second of the multiprocessors under load."""
    dram_rate: float = 1.5e12
    """Bytes a second from memory, as a copy reaches them."""
    name: str = ""


SHARED_LIMITS: Final = {
    "80": (163 * KIB, 164 * KIB),
    "86": (99 * KIB, 100 * KIB),
    "89": (99 * KIB, 100 * KIB),
    "90": (227 * KIB, 228 * KIB),
    "100": (227 * KIB, 228 * KIB),
    "120": (99 * KIB, 100 * KIB),
}
"""Shared memory that one block may have, and that a multiprocessor has, in bytes, by generation."""


RESERVED_SHARED: Final = 1024
"""Bytes of shared memory that the system takes of every block."""

SUSTAINED_CLOCK: Final = 0.886
"""Of the highest clock, what an H200 keeps under tensor-core load."""

COPY_SHARE: Final = 0.855
"""Of the memory's promised rate, what a copy reaches on an H200."""


def generation(architecture: str) -> str:
    """Return the entry of `SHARED_LIMITS` that an architecture belongs to.

    Raises
    ------
    KeyError
        If the architecture has no ``mma.sp``.
    """
    number = architecture.rstrip("af")
    if number in SHARED_LIMITS:
        return number
    if number == "87":  # the embedded part of sm_80's generation
        return "80"
    major = f"{number[:-1]}0"
    if int(number) < 80:
        raise KeyError(f"sm_{architecture} has no mma.sp; it came with sm_80")
    return major if major in SHARED_LIMITS else "120"


def _known(
    name: str, architecture: str, multiprocessors: int, l2: int, clock: float, dram: float
) -> Device:
    limits = SHARED_LIMITS[architecture]
    return Device(architecture, multiprocessors, *limits, l2 * MIB, clock * 1e9, dram * 1e12, name)


DEVICES: Final = {
    device.name: device
    for device in (
        _known("A100", "80", 108, 40, 1.41, 1.74),
        _known("RTX 3090", "86", 82, 6, 1.70, 0.80),
        _known("L40S", "89", 142, 96, 2.3, 0.74),
        _known("RTX 4090", "89", 128, 72, 2.52, 0.86),
        _known("H100", "90", 132, 50, 1.755, 2.86),
        _known("H200", "90", 132, 50, 1.755, 4.2),
        _known("B200", "100", 148, 126, 1.85, 6.84),
        _known("RTX 5090", "120", 170, 96, 2.41, 1.53),
    )
}
"""Counts and clocks as the makers' datasheets give them, memory at `COPY_SHARE` of what they
promise; the H200's clock and memory were measured."""

_TYPICAL: Final = {
    "80": "A100", "86": "RTX 3090", "89": "RTX 4090",
    "90": "H200", "100": "B200", "120": "RTX 5090",
}  # fmt: skip


def named_device(name: str) -> Device:
    """Return a GPU by its name ("H200"), or a typical one by its architecture ("sm_90").

    Raises
    ------
    ValueError
        If the name is not known; the message lists those that are.
    """
    wanted = name.lower().replace(" ", "").removeprefix("nvidia")
    by_name = {known.lower().replace(" ", ""): device for known, device in DEVICES.items()}
    by_name |= {f"sm_{number}": DEVICES[typical] for number, typical in _TYPICAL.items()}
    if wanted not in by_name:
        known = ", ".join([*DEVICES, *(f"sm_{number}" for number in _TYPICAL)])
        raise ValueError(f"device is {name!r}; known are {known}.")
    return by_name[wanted]
