"""National identification numbers: what they look like, and whether one is valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct

from perdure.domain.checksums import luhn, mod11_2, mod11_10, verhoeff, weighted

_S = r"[ .\x00-]?"
"""A separator, or none. \\x00 stands for an invisible character."""


class NationalId(Struct, frozen=True):
    """The numbers of one country.

    Attributes:
        shape: a regular expression that finds candidates, in any case of letters.
        width: the most characters that it matches.
        valid: whether a candidate without its separators, in upper case, is a number.
        common: whether many other numbers look the same (nine or ten digits, of which one in ten is valid).
            It is looked for only where its country is named.
    """

    shape: str
    width: int
    valid: Callable[[str], bool]
    common: bool = False


def _date(month: str, day: str) -> bool:
    """Whether there is such a day in some year."""
    days = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    return 1 <= int(month) <= 12 and 1 <= int(day) <= days[int(month) - 1]


def _at(code: str) -> bool:
    weights = (3, 7, 9, 0, 5, 8, 4, 2, 1, 6)
    return weighted(code, weights) % 11 == int(code[3]) and _day_first(code[4:])


def _day_first(six: str) -> bool:
    return _date(six[2:4], six[:2])


def _year_first(six: str) -> bool:
    return _date(six[2:4], six[4:6])


def _au(code: str) -> bool:
    return weighted(code, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _be(code: str) -> bool:
    known = any(97 - int(century + code[:9]) % 97 == int(code[9:]) for century in ("", "2"))
    return known and int(code[2:4]) <= 52 and int(code[4:6]) <= 31


def _br(code: str) -> bool:
    if len(set(code)) == 1:
        return False
    checks = (weighted(code, range(size + 1, 1, -1)) * 10 % 11 % 10 for size in (9, 10))
    return all(check == int(ch) for check, ch in zip(checks, code[9:], strict=True))


def _ch(code: str) -> bool:
    return weighted(code, (1, 3) * 6 + (1,)) % 10 == 0


def _cl(code: str) -> bool:
    total = sum(int(ch) * (2 + index % 6) for index, ch in enumerate(reversed(code[:-1])))
    return "0K987654321"[total % 11] == code[-1]


def _cn(code: str) -> bool:
    return _date(code[10:12], code[12:14]) and mod11_2(code)


def _de(code: str) -> bool:
    counts = sorted((code[:10].count(ch) for ch in set(code[:10])), reverse=True)
    return code[0] != "0" and counts[0] in (2, 3) and counts[1] == 1 and mod11_10(code)


def _es(code: str) -> bool:
    number = code[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == code[-1]


def _fi(code: str) -> bool:
    digits = code[:6] + code[-4:-1]
    return _day_first(code[:6]) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == code[-1]


def _fr(code: str) -> bool:
    number = code[:13].replace("2A", "19").replace("2B", "18") if code[5:7] in ("2A", "2B") else code[:13]
    return number.isdigit() and 97 - int(number) % 97 == int(code[13:])


def _gb(code: str) -> bool:
    if len(code) == 10:
        return weighted(code, range(10, 0, -1)) % 11 == 0
    return code[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def _it(code: str) -> bool:
    odd = "BAKPLCQDREVOSFTGUHMINJWZYX"  # the place of a letter is what it counts on odd places
    total = 0
    for index, ch in enumerate(code[:15]):
        value = int(ch) if ch.isdigit() else ord(ch) - 65
        total += value if index % 2 else odd.index(chr(65 + value))
    return chr(65 + total % 26) == code[15]


def _kr(code: str) -> bool:
    check = 11 - weighted(code[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11
    return _year_first(code) and check % 10 == int(code[12])


def _mx(code: str) -> bool:
    signs = "0123456789ABCDEFGHIJKLMN\u00d1OPQRSTUVWXYZ"
    total = sum(signs.index(ch) * (18 - index) for index, ch in enumerate(code[:17]))
    return _year_first(code[4:10]) and -total % 10 == int(code[17])


def _nl(code: str) -> bool:
    return int(code) > 0 and weighted(code, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _no(code: str) -> bool:
    first = weighted(code, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11
    second = weighted(code, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11
    return first == second == 0 and _date(str(int(code[2:4]) % 40), str(int(code[:2]) % 40))


def _pl(code: str) -> bool:
    check = weighted(code, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10
    return check == 0 and _date(str(int(code[2:4]) % 20), code[4:6])


def _ro(code: str) -> bool:
    rest = weighted(code[:12], (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return _year_first(code[1:7]) and (1 if rest == 10 else rest) == int(code[12])


def _se(code: str) -> bool:
    code = re.sub("[^0-9]", "", code)
    short = code[2:] if len(code) == 12 else code
    day = int(short[4:6])
    return luhn(short) and _date(short[2:4], str(day - 60 if day > 60 else day))


def _tr(code: str) -> bool:
    odd, even = (sum(map(int, code[begin:9:2])) for begin in (0, 1))
    tenth = (odd * 7 - even) % 10
    return tenth == int(code[9]) and (odd + even + tenth) % 10 == int(code[10])


def _us(code: str) -> bool:
    return code[:3] not in ("000", "666") and code[0] != "9" and code[3:5] != "00" and code[5:] != "0000"


def _za(code: str) -> bool:
    return _year_first(code) and code[10] in "012" and luhn(code)


NATIONAL_IDS: Mapping[str, NationalId] = MappingProxyType(
    {
        "at": NationalId(rf"[1-9][0-9]{{3}}{_S}[0-9]{{6}}", 11, _at, common=True),
        "au": NationalId(rf"[0-9]{{3}}{_S}[0-9]{{3}}{_S}[0-9]{{3}}", 11, _au, common=True),
        "be": NationalId(
            rf"[0-9]{{2}}{_S}[0-9]{{2}}{_S}[0-9]{{2}}{_S}[0-9]{{3}}{_S}[0-9]{{2}}", 15, _be
        ),
        "br": NationalId(rf"[0-9]{{3}}{_S}[0-9]{{3}}{_S}[0-9]{{3}}{_S}[0-9]{{2}}", 14, _br),
        "ca": NationalId(rf"[1-79][0-9]{{2}}{_S}[0-9]{{3}}{_S}[0-9]{{3}}", 11, luhn, common=True),
        "ch": NationalId(rf"756{_S}[0-9]{{4}}{_S}[0-9]{{4}}{_S}[0-9]{{2}}", 16, _ch),
        "cl": NationalId(r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}-[0-9K]", 12, _cl),
        "cn": NationalId(r"[1-9][0-9]{16}[0-9X]", 18, _cn),
        "de": NationalId(rf"[0-9]{{2}}{_S}[0-9]{{3}}{_S}[0-9]{{3}}{_S}[0-9]{{3}}", 14, _de),
        "es": NationalId(rf"[0-9XYZ][0-9]{{7}}{_S}[A-Z]", 10, _es),
        "fi": NationalId(r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", 11, _fi),
        "fr": NationalId(
            rf"[1-478]{_S}[0-9]{{2}}{_S}[0-9]{{2}}{_S}[0-9][0-9AB]{_S}[0-9]{{3}}{_S}[0-9]{{3}}{_S}[0-9]{{2}}",
            21,
            _fr,
        ),
        "gb": NationalId(
            rf"(?:[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]{_S}[0-9]{{2}}{_S}[0-9]{{2}}{_S}[0-9]{{2}}{_S}[A-D]"
            r"|[0-9]{3} [0-9]{3} [0-9]{4})",
            13,
            _gb,
        ),
        "in": NationalId(rf"[2-9][0-9]{{3}}{_S}[0-9]{{4}}{_S}[0-9]{{4}}", 14, verhoeff),
        "it": NationalId(
            r"[A-Z]{6}[0-9L-NP-V]{2}[A-EHLMPRST][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]", 16, _it
        ),
        "kr": NationalId(r"[0-9]{6}-[1-8][0-9]{6}", 14, _kr),
        "mx": NationalId(r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", 18, _mx),
        "nl": NationalId(rf"[0-9]{{4}}{_S}[0-9]{{2}}{_S}[0-9]{{3}}", 11, _nl, common=True),
        "no": NationalId(rf"[0-9]{{6}}{_S}[0-9]{{5}}", 12, _no),
        "pl": NationalId(r"[0-9]{11}", 11, _pl),
        "ro": NationalId(r"[1-9][0-9]{12}", 13, _ro),
        "se": NationalId(r"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}|(?:19|20)[0-9]{10}", 13, _se),
        "tr": NationalId(r"[1-9][0-9]{10}", 11, _tr),
        "us": NationalId(r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", 11, _us),
        "za": NationalId(rf"[0-9]{{6}}{_S}[0-9]{{4}}{_S}[0-9]{{3}}", 15, _za),
    }
)  # fmt: skip
"""By the country's code (ISO 3166, lower case)."""
