"""What an API key is: who it stands for, what it may do, and how a presented key is checked.

A key reads `platen_ID_SECRET`. Kept are its id, a salt and a keyed hash of its secret. The hash is a fast one
(BLAKE2b): slow hashes protect passwords that can be guessed; 256 random bits can't be, and a slow check would
let anyone keep the server busy with wrong keys.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

Priority = Literal["high", "normal", "low"]
PRIORITIES: dict[Priority, int] = {"high": 1, "normal": 0, "low": -1}
"""A key's class as the engines' scheduler has it: the higher goes first."""

PREFIX = "platen"
KEY_VARIABLE = "PLATEN_API_KEY"
"""Environment variable from which commands take the key for a server that asks for one."""


class Scope(StrEnum):
    """What a key may be for."""

    infer = "infer"
    models = "models"
    metrics = "metrics"
    admin = "admin"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use; None is without limit. Budgets are for a calendar month (UTC).

    `money` is in the currency of the project's prices.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens: int | None = None
    money: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Who a key is for and what it allows. `models` are names or patterns such as `llama-*`."""

    name: str
    tenant: str
    scopes: frozenset[Scope] = frozenset({Scope.infer, Scope.models})
    models: tuple[str, ...] = ("*",)
    priority: Priority = "normal"
    limits: Limits = Limits()
    expires: datetime | None = None

    def may_use(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: enough to check one that is presented, not enough to make it."""

    id: str
    grant: Grant
    salt: bytes
    digest: bytes
    created: datetime
    revoked: datetime | None = None

    def matches(self, secret: bytes) -> bool:
        """Whether `secret` is this key's, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(_digest(secret, self.salt), self.digest)

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.grant.expires is not None and self.grant.expires <= now else "active"


def new_key(grant: Grant) -> tuple[ApiKey, str]:
    """A key and its text, which can't be had again."""
    key_id, secret, salt = secrets.token_hex(5), secrets.token_urlsafe(32), secrets.token_bytes(16)
    key = ApiKey(key_id, grant, salt, _digest(secret.encode(), salt), datetime.now(UTC))
    return key, f"{PREFIX}_{key_id}_{secret}"


def parts_of(presented: bytes) -> tuple[str, bytes] | None:
    """Id and secret of a key's text; None when it is none of ours."""
    parts: Sequence[bytes] = presented.split(b"_", 2)
    if len(parts) != 3 or parts[0] != PREFIX.encode():
        return None
    return parts[1].decode("latin-1"), parts[2]


def _digest(secret: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(secret, key=salt, digest_size=32).digest()
