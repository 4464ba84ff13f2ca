"""Personal data: numbers count only with the right check digits, however they are written."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from perdure.domain.guardrail_checks import GuardrailsConfig
from perdure.domain.guardrails import Guardrails
from perdure.domain.national_ids import NATIONAL_IDS


def found(text: str, *kinds: str, countries: tuple[str, ...] = ()) -> list[str]:
    check: dict[str, Any] = {"type": "pii", "countries": countries, **({"kinds": kinds} if kinds else {})}
    rules = Guardrails(msgspec.convert({"checks": [check]}, GuardrailsConfig).checks)
    hits = rules.scan("output", text)
    window = rules.window("output")
    assert window is not None
    assert all(hit.end - hit.start < window for hit in hits)
    return [text[hit.start : hit.end] for hit in hits]


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        ("4111111111111111", ["4111111111111111"]),
        ("4111111111111112", []),
        ("Card: 4111 1111 1111 1111.", ["4111 1111 1111 1111"]),
        ("5500-0000-0000-0004, 3714 496353 98431", ["5500-0000-0000-0004", "3714 496353 98431"]),
        ("2223003122003222 30569309025904", ["2223003122003222", "30569309025904"]),
        ("3530111333300000 6011111111111117", ["3530111333300000", "6011111111111117"]),
        ("4111 1111 1111 1111 2027", ["4111 1111 1111 1111"]),
        ("4\uff111\u0661111111111111", ["4\uff111\u0661111111111111"]),  # digits of other scripts
        ("4111\u200b1111\u200b1111\u200b1111", ["4111\u200b1111\u200b1111\u200b1111"]),
        ("4111\u20111111\u20111111\u20111111", ["4111\u20111111\u20111111\u20111111"]),  # hyphens
        ("卡号4111111111111111到期", ["4111111111111111"]),
        ("x4111111111111111", []),
        ("41111111111111111", []),
        ("94111111111111111 4111111111111111x", []),
        ("0000000000000000 8111111111111118", []),  # nobody's numbers
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", []),  # rows of single digits are tables
    ],
)
def test_cards_have_right_check_digits_and_known_beginnings(text: str, cards: list[str]) -> None:
    assert found(text, "credit_card") == cards


@pytest.mark.parametrize(
    ("text", "ibans"),
    [
        ("DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        ("DE89370400440532013001", []),
        ("to gb82west12345698765432, please", ["gb82west12345698765432"]),
        (
            "NO9386011117947 and MT84MALT011000012345MTLCAST001S",
            ["NO9386011117947", "MT84MALT011000012345MTLCAST001S"],
        ),
        ("DE89 3704 0044 0532 0130 00 by today", ["DE89 3704 0044 0532 0130 00"]),
        ("XX89370400440532013000", []),
        ("DE893704004405320130001", []),
    ],
)
def test_ibans_have_the_length_of_their_country_and_right_check_digits(text: str, ibans: list[str]) -> None:
    assert found(text, "iban") == ibans


VALID = {
    "at": ["3724091175", "3515 110798"],
    "au": ["830388368", "925 412 248"],
    "be": ["61.07.05-833.56", "86061273079"],
    "br": ["171.599.409-46", "33156409200"],
    "ca": ["451398333", "184-548-410"],
    "ch": ["756.7726.4945.42", "7568469388235"],
    "cl": ["95357308-3", "68.568.371-7"],
    "cn": ["110105199408194106", "11010519491231002X"],
    "de": ["12 087 935 425", "68411095721"],
    "es": ["Y5313387X", "54362315K", "54362315-k"],
    "fi": ["130379-139N", "190780-620J"],
    "fr": ["2 81 02 75 357 155 48", "157087522926160"],
    "gb": ["AB 12 34 56 C", "725 328 8793"],
    "in": ["4652 2865 8183", "340468955992"],
    "it": ["RCFCFB82B10H501E", "bfbffd87d07h501s"],
    "kr": ["840711-2485032", "950514-2522504"],
    "mx": ["GARP690322HDFRRL00", "BOXW310820HNERXN09"],
    "nl": ["3284 99 183", "018021979"],
    "no": ["280973 71514", "16019154339"],
    "pl": ["75101482608", "56121501113"],
    "ro": ["2570425123234", "1620924126984"],
    "se": ["740920-1147", "510315+0024", "197409201147"],
    "tr": ["93979847196", "19383472298"],
    "us": ["417-77-1164", "722 03 6375"],
    "za": ["6104194148080", "970304 6262 085"],
}
"""Numbers whose check digits python-stdnum confirms (those of the USA, and the British NINO, have none)."""


@pytest.mark.parametrize("country", NATIONAL_IDS)
def test_national_ids_are_found(country: str) -> None:
    for number in VALID[country]:
        assert found(f"It is {number}.", "national_id", countries=(country,)) == [number], number


@pytest.mark.parametrize("country", sorted(NATIONAL_IDS.keys() - {"us", "gb"}))
def test_national_ids_with_a_wrong_digit_are_none(country: str) -> None:
    for number in VALID[country]:
        at = max(index for index, ch in enumerate(number[:-1]) if ch.isdigit())
        wrong = f"{number[:at]}{(int(number[at]) + 1) % 10}{number[at + 1 :]}"
        assert found(f"It is {wrong}.", "national_id", countries=(country,)) == [], wrong


def test_national_ids_without_check_digits_follow_the_rules_of_their_country() -> None:
    text = "000-12-3456 666-12-3456 912-12-3456 123-00-3456 123-45-0000 GB123456A 725 328 8794 417771164"
    assert found(text, "national_id", countries=("us", "gb")) == []


def test_common_looking_numbers_are_found_only_if_their_country_is_named() -> None:
    text = "orders 830388368, 451398333 and 018021979; PESEL 75101482608"
    assert found(text, "national_id") == ["75101482608"]
    assert found(text, "national_id", countries=("au", "nl")) == ["830388368", "018021979"]


@pytest.mark.parametrize(
    ("text", "mails"),
    [
        ("mail a.b+c@example.co.uk, please.", ["a.b+c@example.co.uk"]),
        ("<ü@bücher.de> x@y @me a@b.c", ["ü@bücher.de"]),
        ("联系a@b.com谢谢", ["联系a@b.com"]),
        ("a" * 80 + "@example.com", ["a" * 64 + "@example.com"]),
        ("see a@b.com.", ["a@b.com"]),
        ("v1@2.0.1 git@host", []),
    ],
)
def test_mail_addresses_are_found(text: str, mails: list[str]) -> None:
    assert found(text, "email") == mails


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("+49 171 1234567, 0049-30-123456", ["+49 171 1234567", "0049-30-123456"]),
        ("+44 (0)20 7946 0958", ["+44 (0)20 7946 0958"]),
        ("(415) 555-2671 or 415.555.2671", ["(415) 555-2671", "415.555.2671"]),
        ("06 12 34 56 78", ["06 12 34 56 78"]),
        ("on 2024-05-06 12:30:45, 01-02-2024 12:30, 01/02/2024 10", []),
        ("1,234,567 0.1234567 $12,345.67 12345678", []),
    ],
)
def test_phone_numbers_are_found_and_dates_are_not(text: str, phones: list[str]) -> None:
    assert found(text, "phone") == phones


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("from 10.0.0.1. And 203.0.113.9, 300.1.1.1", ["10.0.0.1", "203.0.113.9"]),
        ("1.2.3.4.5 v1.2.3.4 1.2.3", []),
        ("2001:db8::1 ::ffff:1.2.3.4 [fe80::1]", ["2001:db8::1", "::ffff:1.2.3.4", "fe80::1"]),
        ("127.0.0.1 ::1 0.0.0.0 :: std::vector a::b 12:30:45 00:1a:2b:3c:4d:5e", []),
    ],
)
def test_ip_addresses_are_found_and_versions_and_times_are_not(text: str, addresses: list[str]) -> None:
    assert found(text, "ip_address") == addresses


def test_all_kinds_are_looked_for_in_the_order_of_the_text() -> None:
    text = "a@b.com, DE89 3704 0044 0532 0130 00, 4111111111111111, 10.0.0.1, 417-77-1164, +49 171 1234567"
    assert found(text) == text.split(", ")  # the phone number in the IBAN does not count


def test_crafted_texts_take_a_bounded_time() -> None:
    began = time.process_time()
    for text in (
        "4" * 50_000,
        "1 2 " * 12_000,
        "a@" * 25_000,
        "1." * 25_000,
        ":" * 50_000,
        "é1" * 20_000,
        "+" * 50_000,
    ):
        assert found(text) == []
    assert time.process_time() - began < 10
