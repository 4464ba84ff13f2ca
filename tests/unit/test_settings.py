"""Settings from the environment: defaults, conversions, and errors that name the setting."""

from __future__ import annotations

import re

import pytest

from perdure.domain.errors import InvalidInput
from perdure.settings import Settings, load

PRIVATE = "true, false, or networks such as 10.0.0.0/8, separated by commas"


def test_without_an_environment_the_defaults_hold_and_an_empty_variable_counts_as_none() -> None:
    assert load({}) == load({"PERDURE_PORT": "", "PERDURE_DATA": ""}) == Settings()


def test_the_command_line_wins_over_the_environment() -> None:
    assert load({"PERDURE_PORT": "1", "PERDURE_HOST": "::1"}, port=2, host=None) == Settings(
        port=2, host="::1"
    )


def test_values_are_converted_to_their_types() -> None:
    read = load(
        {
            "PERDURE_RATE_LIMIT": "2.5",
            "PERDURE_PRIVATE_ADDRESSES": "true",
            "PERDURE_DATA": "7",
            "PERDURE_LOG_LEVEL": "WARNING",
        }
    )
    assert (read.rate_limit, read.private_addresses, read.data, read.log_level) == (2.5, True, "7", "WARNING")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("PORT", "abc", "a whole number"),
        ("PORT", "70000", "between 0 and 65535"),
        ("RATE_LIMIT", "much", "a number"),
        ("RATE_LIMIT", "-1", "0 or more"),
        ("DRAIN_SECONDS", "nan", "0 or more"),
        ("DRAIN_SECONDS", "inf", "0 or more"),
        ("MODEL_ATTEMPTS", "0", "1 or more"),
        ("MAX_FILE_BYTES", "0", "between 1 and 67108864"),
        ("PRIVATE_ADDRESSES", "maybe", PRIVATE),
        ("PRIVATE_ADDRESSES", "10.0.0.1/8", PRIVATE),
        ("PRIVATE_ADDRESSES", "10.0.0.0/33", PRIVATE),
        ("PRIVATE_ADDRESSES", "intranet.example", PRIVATE),
        ("DEBUGGABLE", "maybe", "true or false"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ],
)
def test_an_invalid_value_is_refused_and_the_error_names_the_setting_and_what_is_valid(
    name: str, value: str, wanted: str
) -> None:
    words = f"the setting PERDURE_{name} must be {wanted}, not {value!r}"
    with pytest.raises(InvalidInput, match=f"^{re.escape(words)}$"):
        load({f"PERDURE_{name}": value})


def test_private_addresses_may_be_all_none_or_some_networks() -> None:
    read = {
        text: load({"PERDURE_PRIVATE_ADDRESSES": text}).private_addresses
        for text in ("TRUE", "0", "10.0.0.0/8, 192.168.1.5,fd00::/8,", "::ffff:172.16.0.0/108")
    }
    assert list(read.values()) == [
        True,
        False,
        ("10.0.0.0/8", "192.168.1.5/32", "fd00::/8"),
        ("172.16.0.0/12",),
    ]


def test_the_error_about_one_of_several_networks_quotes_only_that_one() -> None:
    with pytest.raises(InvalidInput, match=r"PERDURE_PRIVATE_ADDRESSES must be .*, not '300\.1\.1\.1'$"):
        load({"PERDURE_PRIVATE_ADDRESSES": "10.0.0.0/8,300.1.1.1"})
