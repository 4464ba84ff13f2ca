"""Large texts are searched in slices, which finds the same as a search in the whole text."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from perdure.domain import json_costs, visible
from perdure.domain.json_costs import extremes_in, without_strings
from perdure.domain.visible import without_hidden

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_LETTERS = 'ab"\\\n,[{ü\u200d\u200c😀\x00\r\u202e'


def _text(chance: random.Random) -> str:
    return "".join(chance.choice(_LETTERS) for _ in range(chance.randint(0, 60)))


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 4 or kind < 0.3:
        return _text(chance)
    if kind < 0.5:
        return chance.choice([1, 1.5, 1e300, -1e-200, 10**290, True, None])
    if kind < 0.75:
        return [_value(chance, depth + 1) for _ in range(chance.randint(0, 12))]
    return {f'{n}"\\': _value(chance, depth + 1) for n in range(chance.randint(0, 8))}


@pytest.mark.parametrize("size", [7, 64, 1_000])
def test_slices_change_no_result(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_costs, "SLICE", size)
    chance = random.Random(size)
    for _ in range(60):
        body = json.dumps(_value(chance), ensure_ascii=chance.random() < 0.5)
        bare = _STRING.sub("", body)
        assert without_strings(body) == bare
        written = "[" + bare.replace("[", "[1e300,").replace("{", "{")
        count = extremes_in(written, 10_000)
        monkeypatch.setattr(json_costs, "SLICE", 1 << 20)
        assert extremes_in(written, 10_000) == count
        monkeypatch.setattr(json_costs, "SLICE", size)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_joiners_are_judged_with_their_neighbours(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(size)
    for _ in range(60):
        said = "ü" + "".join(_text(chance) for _ in range(5))
        monkeypatch.setattr(visible, "_SLICE", 1 << 20)
        whole = without_hidden(said)
        monkeypatch.setattr(visible, "_SLICE", size)
        assert without_hidden(said) == whole


def test_plain_texts_lose_control_characters() -> None:
    everything = "".join(map(chr, range(128)))
    assert without_hidden(everything) == "\t\n" + "".join(map(chr, range(0x20, 0x7F)))
    assert without_hidden("a\r\nb\rc") == "a\nbc"
