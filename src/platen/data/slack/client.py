"""A client of Slack's Web API: pages by cursor, waits when told to, tries again when the network fails.

The token comes from the environment, goes into one header, and is never part of a URL, a message or a log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from platen.core.errors import DataError

TOKEN_VARIABLE = "SLACK_TOKEN"
API_VARIABLE = "SLACK_API_URL"
API = "https://slack.com/api"
_ATTEMPTS = 6
_MOST_WAITS = 100  # refusals for haste in a row, after which it is no longer haste
_LONGEST_WAIT = 300.0  # seconds; Slack asks for 30 to 60
_REFUSED = {
    "invalid_auth": "Make a new token and put it into SLACK_TOKEN.",
    "not_authed": "Put a token into SLACK_TOKEN.",
    "token_revoked": "Make a new token and put it into SLACK_TOKEN.",
    "token_expired": "Make a new token and put it into SLACK_TOKEN.",
    "account_inactive": "The token's user or app was removed; make a new one.",
    "missing_scope": "Give the token the scopes *:read and *:history of the kinds you want, and users:read.",
}


class SlackError(Exception):
    """Slack's answer `ok: false` to one call; `code` is its error."""

    def __init__(self, method: str, code: str) -> None:
        super().__init__(f"{method}: {code}")
        self.code = code


class SlackClient:
    """Calls with retries. `wait` sleeps; tests put a clock of their own in."""

    def __init__(
        self, token: str, api: str = API, *, wait: Callable[[float], None] = time.sleep, timeout: float = 30.0
    ) -> None:
        """Raises DataError for an address that would send the token in the clear."""
        parts = urlsplit(api)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise DataError(
                f"{API_VARIABLE} is no https:// address: the token would be sent in the clear",
                hint=f"Leave it out for {API}; GovSlack's is https://slack-gov.com/api.",
            )
        self._wait = wait
        self._http = httpx.Client(
            base_url=api.rstrip("/") + "/", headers={"Authorization": f"Bearer {token}"}, timeout=timeout
        )

    @classmethod
    def from_environment(cls) -> SlackClient:
        """With the token in SLACK_TOKEN. Raises DataError without one."""
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise DataError(
                f"no token in {TOKEN_VARIABLE}",
                hint=f"Make a Slack app, install it, and: export {TOKEN_VARIABLE}=xoxp-…",
            )
        return cls(token, os.environ.get(API_VARIABLE) or API)

    def __enter__(self) -> SlackClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def pages(self, method: str, cursor: str = "", **parameters: str | int) -> Iterator[dict[str, Any]]:
        """All answers from `cursor` on. Raises SlackError and DataError."""
        while True:
            answer = self.call(method, **parameters, **({"cursor": cursor} if cursor else {}))
            yield answer
            cursor = next_cursor(answer)
            if not cursor:
                return

    def call(self, method: str, **parameters: str | int) -> dict[str, Any]:
        """One answer. Raises SlackError for one that is not ok, DataError when there is none to be had or the
        token is no good."""
        trouble = ""
        attempt = waits = 0
        while attempt < _ATTEMPTS and waits < _MOST_WAITS:
            try:
                response = self._http.get(method, params=dict(parameters))
            except httpx.TransportError as error:
                trouble = type(error).__name__
            else:
                if response.status_code == 429:
                    waits, trouble = waits + 1, "status 429"
                    self._wait(_retry_after(response.headers))
                    continue
                answer = _json(response)
                if response.status_code == 200 and answer is not None:
                    if answer.get("ok") is True:
                        return answer
                    _raise(method, str(answer.get("error") or "no error given"))
                trouble = f"status {response.status_code}"
                if 400 <= response.status_code < 500:
                    break
            attempt += 1
            if attempt < _ATTEMPTS:
                self._wait(min(2.0**attempt, 30.0))
        raise DataError(
            f"Slack gave no answer to {method}: {trouble}",
            hint="Run the same command again later: it goes on where it stopped.",
        )


def next_cursor(answer: Mapping[str, Any]) -> str:
    """Where the next page begins; empty on the last."""
    metadata = answer.get("response_metadata")
    cursor = metadata.get("next_cursor") if isinstance(metadata, dict) else ""
    return cursor if isinstance(cursor, str) else ""


def _raise(method: str, code: str) -> None:
    if code in _REFUSED:
        raise DataError(f"Slack refuses {method}: {code}", hint=_REFUSED[code])
    raise SlackError(method, code)


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        seconds = float(headers.get("Retry-After", "30"))
    except ValueError:
        seconds = 30.0
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else 30.0


def _json(response: httpx.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
