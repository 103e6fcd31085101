"""Check digits, against independent statements of their definitions and published numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.scan.checks import IBAN_LENGTHS, card, iban, ip_address, luhn

DIGITS = st.text("0123456789", min_size=2, max_size=24)


def luhn_by_hand(digits: str) -> bool:
    """ISO/IEC 7812-1, as written there: from the right, every second digit doubled, its digits added."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(digits[::-1])]
    return sum(int(d) for number in doubled for d in str(number)) % 10 == 0


def mod97_by_hand(text: str) -> int:
    """ISO 7064 piecewise: letters as 10 to 35, the first four characters moved to the end."""
    rest = 0
    for letter in text[4:] + text[:4]:
        value = ord(letter) - 55 if letter.isalpha() else int(letter)
        rest = (rest * (100 if value > 9 else 10) + value) % 97
    return rest


@given(DIGITS)
def test_luhn(digits: str) -> None:
    assert luhn(digits) == luhn_by_hand(digits)


@given(DIGITS, st.integers(0, 23), st.integers(1, 9))
def test_luhn_notices_one_wrong_digit(digits: str, place: int, by: int) -> None:
    check = next(d for d in "0123456789" if luhn(digits + d))
    place %= len(digits)
    wrong = digits[:place] + str((int(digits[place]) + by) % 10) + digits[place + 1 :]
    assert not luhn(wrong + check)


# Test numbers that the card schemes and payment providers publish.
@pytest.mark.parametrize(
    "digits",
    [
        "4111111111111111",
        "4222222222222",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "6011111111111117",
        "3530111333300000",
        "30569309025904",
        "6759649826438453",
    ],
)
def test_cards(digits: str) -> None:
    assert card(digits)
    assert not card(digits[:-1] + str((int(digits[-1]) + 1) % 10))


def test_no_issuer_has_these() -> None:
    assert luhn("1234567812345670")
    assert not card("1234567812345670")
    assert not card("0000000000000000")


# Examples of the IBAN registry.
@pytest.mark.parametrize(
    "text",
    [
        "DE89370400440532013000",
        "GB29NWBK60161331926819",
        "FR1420041010050500013M02606",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
        "NL91ABNA0417164300",
        "CH9300762011623852957",
    ],
)
def test_ibans(text: str) -> None:
    assert mod97_by_hand(text) == 1
    assert iban(text)
    assert not iban(text[:-1])
    assert not iban(text[:-1] + ("0" if text[-1] != "0" else "1"))


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.text("0123456789ABCXYZ", min_size=31, max_size=31))
def test_iban_is_length_and_one_modulo_97(country: str, rest: str) -> None:
    text = f"{country}{rest}"[: IBAN_LENGTHS[country]]
    assert iban(text) == (mod97_by_hand(text) == 1)
    check = 98 - mod97_by_hand(f"{country}00{text[4:]}")
    assert iban(f"{country}{check:02}{text[4:]}")


def test_addresses_of_machines() -> None:
    assert ip_address("8.8.8.8")
    assert ip_address("2001:db8::1")
    for text in ("127.0.0.1", "0.0.0.0", "::1", "256.1.1.1", "1.2.3", "12:34:56", "01.2.3.4"):
        assert not ip_address(text)
