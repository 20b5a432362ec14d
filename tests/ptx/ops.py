"""Every instruction: importing this module registers their decoders."""

from . import (
    ops_atomic,
    ops_bits,
    ops_collective,
    ops_compare,
    ops_control,
    ops_convert,
    ops_copy,
    ops_float,
    ops_half,
    ops_integer,
    ops_mbarrier,
    ops_memory,
    ops_tensor,
    ops_wgmma,
)

__all__ = [
    "ops_atomic",
    "ops_bits",
    "ops_collective",
    "ops_compare",
    "ops_control",
    "ops_convert",
    "ops_copy",
    "ops_float",
    "ops_half",
    "ops_integer",
    "ops_mbarrier",
    "ops_memory",
    "ops_tensor",
    "ops_wgmma",
]
