"""What secrets and personal data look like, each kind as a pattern and, where there is one, a check.

Every pattern takes time linear in the text: what repeats is bounded or can be read in one way only. No
pattern crosses a blank except where its own notation does, so that a stream is held back by a word or two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from platen.scan.checks import IBAN_LENGTHS, card, iban, ip_address
from platen.scan.config import SecretKind

LONGEST_WORD = 512
"""A pattern spans at most so many characters; its `until` may follow."""
LONGEST_NUMBER = 56
"""The same for what is written with blanks: numbers and the heads of private keys."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Rule:
    """`pattern` finds candidates, `span` says what of one is the secret, if it is one.

    `hint` is in every text that has a match. `until` finds the end of what may be of any length.
    """

    kind: SecretKind
    pattern: re.Pattern[str]
    hint: re.Pattern[str]
    span: Callable[[re.Match[str]], Span | None] = re.Match.span
    until: re.Pattern[str] | None = None


def _card_span(found: re.Match[str]) -> Span | None:
    """A card's digits, perhaps with three more behind them that are its security code."""
    text, digits = found.group(), re.sub("[ -]", "", found.group())
    if card(digits):
        return found.span()
    if len(digits) == 19 and len(text) > 19 and card(digits[:16]):
        return found.start(), found.end() - 4
    return None


def _iban_span(found: re.Match[str]) -> Span | None:
    """As many letters and digits as the country's IBANs have, if no more follow and the check is right."""
    text, start = found.string, found.start()
    missing, end = IBAN_LENGTHS.get(found[0][:2], 0), start
    while missing and end < found.end():
        missing -= text[end] != " "
        end += 1
    if missing or text[end : end + 1].isalnum() or not iban(text[start:end].replace(" ", "")):
        return None
    return start, end


def _ip_span(found: re.Match[str]) -> Span | None:
    return found.span() if ip_address(found.group()) else None


def _value_span(found: re.Match[str]) -> Span | None:
    """A value with letters and digits: what is only a word is seldom a password."""
    value = found["value"]
    mixed = re.search("[A-Za-z]", value) and re.search("[0-9]", value)
    return found.span("value") if mixed else None


_KEY_ENDS = re.compile(r"(?=[^A-Za-z0-9_-])")
_VENDOR_KEYS = (
    r"sk-[A-Za-z0-9_-]{20}",  # OpenAI, Anthropic and those who do as they do
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])",  # Amazon Web Services
    r"gh[oprsu]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}",
    r"glpat-[A-Za-z0-9_-]{20}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10}",  # Slack
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16}",  # Stripe
    r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20}",  # Google
    r"hf_[A-Za-z0-9]{30}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{40}",
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    r"dop_v1_[a-f0-9]{64}|dapi[a-f0-9]{32}",  # DigitalOcean, Databricks
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
)
_SECRET_NAMES = r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|account[_-]?key|token)"

RULES = (
    Rule(
        "private_key",
        re.compile(r"-----BEGIN (?:[A-Z0-9]{1,9} ){0,2}PRIVATE KEY(?: BLOCK)?-----"),
        re.compile("-----BEGIN"),
        until=re.compile(r"-----END (?:[A-Z0-9]{1,9} ){0,2}PRIVATE KEY(?: BLOCK)?-----"),
    ),
    Rule(
        "jwt",  # RFC 7519: two JSON objects in base64url, the signature behind them
        re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,400}\.eyJ[A-Za-z0-9_-]{4}"),
        re.compile("eyJ"),
        until=re.compile(r"(?=[^A-Za-z0-9_.-])"),
    ),
    Rule(
        "key",
        re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_VENDOR_KEYS)})"),
        re.compile(r"[-_.:][A-Za-z0-9]|[AI]"),
        until=_KEY_ENDS,
    ),
    Rule(
        "password",
        re.compile(
            rf"(?i:{_SECRET_NAMES})[\"']?[ \t]?[:=][ \t]?[\"']?(?P<value>[!#-&(-~]{{8,64}})(?![!#-&(-~])"
        ),
        re.compile("[:=]"),
        _value_span,
    ),
    Rule(
        "password",
        re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"']{1,64}:(?P<value>[^\s@/\"']{1,128})(?=@)"),
        re.compile("://"),
        lambda found: found.span("value"),
    ),
    Rule(
        "email",  # the dot-atoms of RFC 5322 with RFC 5321's lengths, ASCII
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-]"
            r")"
        ),
        re.compile("@"),
    ),
    Rule(
        "iban",
        re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"),
        re.compile("[A-Z]{2}[0-9]{2}"),
        _iban_span,
    ),
    Rule(
        "card",
        re.compile(
            r"(?<![0-9])(?<![0-9]\.)(?:"
            r"[0-9]{4}(?P<gap>[ -])(?:[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{4}(?:(?P=gap)[0-9]{3})?"
            r"|[0-9]{6}(?P=gap)[0-9]{4,5})|[0-9]{13,19})(?![0-9])"
        ),
        re.compile("[0-9]{4}"),
        _card_span,
    ),
    Rule(
        "ip",
        re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9])"),
        re.compile(r"[0-9]\.[0-9]"),
        _ip_span,
    ),
    Rule(
        "ip",
        re.compile(
            r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}::?|::)(?:[0-9A-Fa-f]{1,4}::?){1,7}[0-9A-Fa-f]{0,4}(?![\w:])"
        ),
        re.compile(":[0-9A-Fa-f]{1,4}:"),
        _ip_span,
    ),
    Rule(
        "phone",  # the international form: 8 to 15 digits after + or 00 (ITU-T E.164)
        re.compile(r"(?<![\w+])(?<![0-9][ .])(?:\+|00 ?)[1-9](?:[ .()/-]{0,2}[0-9]){7,14}(?![0-9])"),
        re.compile(r"\+[1-9]|00 ?[1-9]"),
    ),
    Rule(
        "phone",  # the North American form: (415) 555-2671, 415-555-2671
        re.compile(
            r"(?<![\w.+-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}(?!\w|[-.][0-9])"
        ),
        re.compile(r"[0-9][-.][0-9]"),
    ),
)
