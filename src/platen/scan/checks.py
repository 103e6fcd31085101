"""Which strings of digits are what they look like: the check digits of cards and IBANs, real IP addresses."""

from __future__ import annotations

import ipaddress

# Digits of an IBAN in each country, from the IBAN registry (ISO 13616).
IBAN_LENGTHS = {
    code: int(length)
    for length, codes in {
        "15": "NO",
        "16": "BE",
        "18": "DK FK FI FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for code in codes.split()
}

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += _DOUBLED[int(digit)] if place % 2 else int(digit)
    return total % 10 == 0


def card(digits: str) -> bool:
    """Whether digits are a payment card's: an issuer's range, its length and the check digit."""
    length, first, two, four = len(digits), digits[0], int(digits[:2]), int(digits[:4])
    issued = (
        (first == "4" and length in (13, 16, 19))
        or (length == 16 and (51 <= two <= 55 or 2221 <= four <= 2720))
        or (length == 15 and two in (34, 37))
        or (16 <= length <= 19 and (two in (62, 64, 65) or four == 6011 or 3528 <= four <= 3589))
        or (length == 14 and (two in (36, 38, 39) or 300 <= four // 10 <= 305))
        or (12 < length <= 19 and (two == 50 or 56 <= two <= 58 or two in (63, 67)))
    )
    return issued and luhn(digits)


def iban(text: str) -> bool:
    """Whether a text without blanks is an IBAN: its country's length, and 1 modulo 97 (ISO 7064)."""
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1


def ip_address(text: str) -> bool:
    """Whether a text is the address of a machine: IPv4 or IPv6, not loopback and not unspecified."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not address.is_loopback and not address.is_unspecified
