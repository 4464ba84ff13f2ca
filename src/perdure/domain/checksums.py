"""The check digits of numbers that people are known by. All take digits (or letters) without separators."""

from __future__ import annotations

from collections.abc import Sequence


def luhn(digits: str) -> bool:
    """Luhn's algorithm: cards, Sweden, South Africa, Canada."""
    total = 0
    for index, ch in enumerate(reversed(digits)):
        value = int(ch) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mod97(code: str) -> bool:
    """ISO 7064 MOD 97-10, as IBANs use it: letters are 10 to 35, the first four characters go last."""
    moved = code[4:] + code[:4]
    return int("".join(str(int(ch, 36)) for ch in moved)) % 97 == 1


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of the digits, each times its weight; digits without a weight do not count."""
    return sum(int(ch) * weight for ch, weight in zip(digits, weights, strict=False))


def mod11_10(digits: str) -> bool:
    """ISO 7064 MOD 11,10: Germany."""
    check = 10
    for ch in digits[:-1]:
        check = ((check + int(ch)) % 10 or 10) * 2 % 11
    return (11 - check) % 10 == int(digits[-1])


def mod11_2(code: str) -> bool:
    """ISO 7064 MOD 11-2, whose check digit may be X: China."""
    check = 0
    for ch in code[:-1]:
        check = (check + int(ch)) * 2 % 11
    return "0123456789X"[(12 - check) % 11] == code[-1]


_TIMES = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_SHUFFLED = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def verhoeff(digits: str) -> bool:
    """Verhoeff's algorithm: India."""
    check = 0
    for index, ch in enumerate(reversed(digits)):
        check = int(_TIMES[check][int(_SHUFFLED[index % 8][int(ch)])])
    return check == 0
