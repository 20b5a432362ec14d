"""Exact arithmetic for the tests' oracles: floats as fractions, and one rounding to any format.

Independent of `rounding`, which the instructions use: here all is a loop over Python integers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["FORMATS", "Format"]

Special = float  # infinities and NaN; everything finite is a Fraction


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with IEEE 754 infinities, NaNs and subnormals."""

    exponent: int
    mantissa: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        return (1 << self.exponent - 1) - 1

    def decode(self, bits: int) -> Fraction | Special:
        """Value of a bit pattern; a negative zero is the float -0.0."""
        sign = -1 if bits >> self.bits - 1 else 1
        e = bits >> self.mantissa & (1 << self.exponent) - 1
        m = bits & (1 << self.mantissa) - 1
        if e == (1 << self.exponent) - 1:
            return float("nan") if m else sign * float("inf")
        if e == 0:
            if m == 0:
                return Fraction(0) if sign > 0 else -0.0
            return Fraction(sign * m) * Fraction(2) ** (1 - self.bias - self.mantissa)
        return sign * (1 + Fraction(m, 1 << self.mantissa)) * Fraction(2) ** (e - self.bias)

    def encode(self, value: Fraction, mode: str = "rn") -> int:
        """Bit pattern of a finite value (zero is +0) rounded in mode rn, rz, rm or rp."""
        sign = 1 << self.bits - 1 if value < 0 else 0
        size = abs(value)
        if size == 0:
            return 0
        e = size.numerator.bit_length() - size.denominator.bit_length()
        while Fraction(2) ** e > size:
            e -= 1
        while Fraction(2) ** (e + 1) <= size:
            e += 1
        unit = Fraction(2) ** (max(e, 1 - self.bias) - self.mantissa)
        count, rest = divmod(size, unit)
        up = {
            "rn": 2 * rest > unit or (2 * rest == unit and count % 2 == 1),
            "rz": False,
            "rm": rest > 0 and value < 0,
            "rp": rest > 0 and value > 0,
        }[mode]
        size = (count + up) * unit
        top = (2 - Fraction(1, 1 << self.mantissa)) * Fraction(2) ** self.bias
        if size > top:
            stays = mode == "rz" or (mode == "rm" and value > 0) or (mode == "rp" and value < 0)
            if not stays:
                return sign | (1 << self.exponent) - 1 << self.mantissa
            size = top
        if size == 0:
            return sign
        e = max(e + (size >= Fraction(2) ** (e + 1)), 1 - self.bias)
        e = min(e, self.bias)
        m = size / Fraction(2) ** (e - self.mantissa)
        assert m.denominator == 1
        if m < 1 << self.mantissa:  # subnormal: the exponent field is 0
            return sign | int(m)
        return sign | (e + self.bias << self.mantissa) + int(m) - (1 << self.mantissa)


FORMATS = {
    "f16": Format(5, 10),
    "bf16": Format(8, 7),
    "f32": Format(8, 23),
    "f64": Format(11, 52),
}


def _prove() -> None:
    """Every float16 survives a round trip, and float32 agrees with the machine's own packing."""
    half = FORMATS["f16"]
    for bits in range(1 << 16):
        value = half.decode(bits)
        if isinstance(value, Fraction):
            assert half.encode(value) == bits
    for number in (1.0, -1.5, 3.1415926, 1e-45, 1e38, 2**-126, -(2.0**-149)):
        single = struct.unpack("<I", struct.pack("<f", number))[0]
        assert FORMATS["f32"].encode(Fraction(number)) == single


if __name__ == "__main__":
    _prove()
