"""Personal data in texts. Numbers that have check digits count only if these are right."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from heapq import merge
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from perdure.domain.checksums import luhn, mod97
from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import PiiCheck
from perdure.domain.guardrail_text import Bytes, Subject
from perdure.domain.linear_regex import compile_re2
from perdure.domain.national_ids import NATIONAL_IDS

_BRANDS = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"30[0-5]|3[689]"), (14, 16)),
    (re.compile(r"6011|64[4-9]|65|62|352[89]|35[3-8]|50|5[6-8]|6[37]"), (16, 17, 18, 19)),
)
"""What the numbers of cards begin with, and how many digits they have."""

_IBANS: Mapping[str, int] = MappingProxyType(
    {
        "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27,
        "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28,
        "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23,
        "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27,
        "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25,
        "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18,
        "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33,
        "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28,
        "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
    }
)  # fmt: skip
"""The length of each country's IBANs."""

_SEPARATORS = re.compile(r"[ .\x00-]")
_DATE = re.compile(r"\d{1,2}[-/]\d{1,2}[-/]\d{2}")

_DIGIT = re.compile("[0-9]")
_WORD = re.compile(r"[A-Za-z0-9]*")

Check = Callable[[str], int]
"""How many characters of a candidate, from its beginning, are what is looked for; 0 for none of them."""


def _in_word(ch: str) -> bool:
    """Whether no number begins or ends beside a character: of scripts without spaces, one may."""
    return ch.isascii() and ch.isalnum()


def _goes_on(rest: str) -> bool:
    return _in_word(rest[0])


class Kind(Struct, frozen=True):
    """One kind of personal data.

    Attributes:
        shape: a regular expression that finds candidates.
        width: the most characters that it matches.
        digits: whether it always has one.
        before, after: whether a candidate is only a part of something else, by the character before it, and
            by the text after it.
    """

    reason: str
    shape: str
    width: int
    check: Check
    before: Callable[[str], bool] = _in_word
    after: Callable[[str], bool] = _goes_on
    digits: bool = True


def _prefixes(text: str, sizes: range, separators: int) -> Iterator[tuple[str, int]]:
    """The beginnings of a text with so many letters and digits, the longest first, and where each ends.

    Args:
        separators: how many of them one may have at most.
    """
    ends = [index + 1 for index, ch in enumerate(text) if ch.isalnum()]
    for size in sorted(sizes, reverse=True):
        if size > len(ends) or ends[size - 1] - size > separators:
            continue
        end = ends[size - 1]
        if not text[end : end + 1].isalnum():
            yield _SEPARATORS.sub("", text[:end]), end


def _card(text: str) -> int:
    for number, end in _prefixes(text, range(13, 20), 5):
        sizes = next((sizes for begins, sizes in _BRANDS if begins.match(number)), ())
        if len(number) in sizes and luhn(number):
            return end
    return 0


def _iban(text: str) -> int:
    size = _IBANS.get(text[:2].upper(), 0)
    for code, end in _prefixes(text, range(size, size + 1), 10) if size else ():
        if mod97(code.upper()):
            return end
    return 0


def _phone(text: str) -> int:
    digits = sum(map(str.isdigit, text))
    return len(text) if 8 <= digits <= 17 and not _DATE.match(text) else 0


def _in_phone(ch: str) -> bool:
    return _in_word(ch) or ch in "-/."


def _address(text: str) -> int:
    """An IP address that is somebody's: neither loopback nor unspecified."""
    bare = text.rstrip(".:") if not text.endswith("::") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return 0
    names_nobody = address.is_loopback or address.is_unspecified or not any(map(str.isdigit, bare))
    return 0 if names_nobody else len(bare)


def _in_address(ch: str) -> bool:
    return _in_word(ch) or ch in "._-:"


def _after_address(rest: str) -> bool:
    """Whether an address goes on; a full stop may end a sentence."""
    return _in_word(rest[0]) or rest[0] in "_-:" or (rest[0] == "." and rest[1:2].isdigit())


def _after_email(rest: str) -> bool:
    return _in_word(rest[0]) or rest[0] in "_-"


def _anything(before: str) -> bool:
    return False


def _national(valid: Callable[[str], bool]) -> Check:
    return lambda text: len(text) if valid(_SEPARATORS.sub("", text).upper()) else 0


_OTHER = r"\x{80}-\x{10ffff}"
_N = r"[ .\x00-]?"
_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "credit_card": Kind("credit_card", rf"[2-6](?:{_N}[0-9]){{12,18}}", 37, _card),
        "iban": Kind("iban", rf"[A-Z]{{2}}[0-9]{{2}}(?:{_N}[A-Z0-9]){{11,30}}", 64, _iban),
        "email": Kind(
            "email",
            rf"[a-z0-9._%+'{_OTHER}-]{{1,64}}@(?:[a-z0-9{_OTHER}][a-z0-9{_OTHER}-]{{0,30}}\.){{1,4}}[a-z]{{2,24}}",
            64 + 1 + 4 * 32 + 24,
            len,
            _anything,
            _after_email,
            digits=False,
        ),
        "phone": Kind(
            "phone",
            r"(?:\+|00)[1-9][0-9]{0,2}[ .\x00-]?(?:\(0\))?(?:[ .\x00/-]?[0-9]){5,13}"
            r"|\(0?[1-9][0-9]{1,4}\)[ -]?[0-9](?:[ -]?[0-9]){5,9}"
            r"|[2-9][0-9]{2}[-. ][2-9][0-9]{2}[-. ][0-9]{4}"
            r"|0[1-9][0-9]{0,4}[ /-][0-9](?:[ -]?[0-9]){5,9}",
            40,
            _phone,
            _in_phone,
        ),
        "ip_address": Kind(
            "ip_address",
            r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|[0-9A-F]{0,4}:[0-9A-F:.]{1,53}",
            58,
            _address,
            _in_address,
            _after_address,
        ),
    }
)


def kinds_of(check: PiiCheck) -> tuple[Kind, ...]:
    """The kinds that a check looks for. Raises InvalidInput, with `field`: a country is not known."""
    unknown = sorted(set(check.countries) - NATIONAL_IDS.keys())
    if unknown:
        raise InvalidInput(
            f"has {unknown[0]!r}, whose numbers are not known: use some of {', '.join(NATIONAL_IDS)}",
            field="countries",
        )
    found = [_KINDS[kind] for kind in dict.fromkeys(check.kinds) if kind != "national_id"]
    if "national_id" in check.kinds:
        codes = check.countries or [code for code, own in NATIONAL_IDS.items() if not own.common]
        for code in dict.fromkeys(codes):
            own = NATIONAL_IDS[code]
            found.append(Kind(f"national_id_{code}", own.shape, own.width, _national(own.valid)))
    return tuple(found)


class PiiRule:
    """Personal data of some kinds."""

    shows = True

    def __init__(self, check: PiiCheck) -> None:
        self._kinds = tuple((kind, compile_re2(kind.shape, ignore_case=True)) for kind in kinds_of(check))
        self.size = 0  # our own patterns do not count
        self.effort = 2_500

    def find(
        self, subject: Subject, start: int, expired: Callable[[], bool]
    ) -> Iterator[tuple[int, int, str | None]]:
        """Find data of all kinds, in the order of the text."""
        plain = subject.plain
        some = _DIGIT.search(plain.text) is not None  # most texts have none, and so only e-mail addresses
        kinds = (each for each in self._kinds if some or not each[0].digits)
        last = 0
        for found in merge(*(_found(kind, regex, plain, start, expired) for kind, regex in kinds)):
            if found[1] > last:  # a part of another one, such as a phone number in an IBAN, does not count
                last = found[1]
                yield found


def _found(
    kind: Kind, regex: Any, plain: Bytes, start: int, expired: Callable[[], bool]
) -> Iterator[tuple[int, int, str | None]]:
    text = plain.text
    at = plain.byte(start)
    while not expired():
        match = regex.search(plain.data, at)
        if match is None:
            return
        begin, end = plain.char(match.start()), plain.char(match.end())
        alone = not (begin and kind.before(text[begin - 1]))
        stop = begin + (kind.check(text[begin:end]) if alone else 0)
        if stop == begin or (stop == end < len(text) and kind.after(text[end : end + 2])):
            word = _WORD.match(text, begin)  # no candidate begins in the middle of a word
            stop = max(begin + 1, word.end() if word else 0)
        else:
            yield begin, stop, f"pii_{kind.reason}"
        at = plain.byte(stop)
    raise TimeoutError
