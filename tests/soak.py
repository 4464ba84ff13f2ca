"""How much of what has no end is tried: a sample by `make test`, far more by `make soak`.

`PERDURE_SOAK=n` makes the soak n times as long. What is too slow for every `make test` is marked `soak`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

SOAKING = bool(os.environ.get("PERDURE_SOAK"))
"""Whether this is the soak: `make soak` sets the variable, `make test` takes it away."""
SCALE = int(os.environ.get("PERDURE_SOAK") or 1)


def amounts(sample: int, soak: int) -> list[object]:
    """Two values of a parameter: the sample, and what the soak takes."""
    return [pytest.param(sample, id="sample"), pytest.param(soak, marks=pytest.mark.soak, id="soak")]


def sampled(values: Iterable[object], every: int = 4) -> list[object]:
    """Values of a parameter: `make test` takes one in `every`, the soak the others."""
    return [
        value if number % every == 0 else pytest.param(value, marks=pytest.mark.soak)
        for number, value in enumerate(values)
    ]
