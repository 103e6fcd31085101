"""Kinds of secrets and what masks them, as project files name them."""

from __future__ import annotations

from typing import Literal

SecretKind = Literal["email", "phone", "card", "iban", "ip", "key", "jwt", "private_key", "password"]


GuardMask = Literal["label", "hash", "drop"]
