"""URLs as messages, logs and manifests may have them."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without_secrets(message: str, url: str) -> str:
    """A library's message about `url`, with neither the URL nor its password in it."""
    message = message.replace(url, shown(url))
    password = urlsplit(url).password
    for secret in {password, unquote(password)} if password else ():
        message = message.replace(secret, "***")
    return message
