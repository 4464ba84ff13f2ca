"""API keys that commands read."""

from __future__ import annotations

import pytest
import typer

from perdure.cli.api_keys import read_key


@pytest.mark.parametrize("key", ["sk-\udcff\udcfe", "ключ", "sk-a\x00b", "sk-a\x1b[31m"])
def test_a_key_that_is_not_printable_is_refused_before_it_is_sent(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no UTF-8 arrive as surrogates."""
    monkeypatch.setattr("os.environ", {"KEY": key})
    with pytest.raises(typer.BadParameter, match="printable ASCII") as raised:
        read_key("KEY", False, needed=True)
    assert key not in str(raised.value)
