"""A client of Slack's Web API on Slack's SDK: pages by cursor, waits when told to, retries.

The token comes from the environment, goes into one header, and is never part of a URL, a message or a log.
"""

from __future__ import annotations

import http.client
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from platen.core.errors import DataError

if TYPE_CHECKING:
    from slack_sdk.http_retry import RetryHandler

TOKEN_VARIABLE = "SLACK_TOKEN"
API_VARIABLE = "SLACK_API_URL"
API = "https://slack.com/api"
_ATTEMPTS = 6
_MOST_WAITS = 90  # refusals for haste in a row, after which it is no longer haste
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
    """Calls through Slack's own SDK, with retries. `wait` sleeps; tests put a clock of their own in."""

    def __init__(
        self, token: str, api: str = API, *, wait: Callable[[float], None] = time.sleep, timeout: int = 30
    ) -> None:
        """Raises DataError for an address that would send the token in the clear."""
        from slack_sdk import WebClient

        parts = urlsplit(api)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise DataError(
                f"{API_VARIABLE} is no https:// address: the token would be sent in the clear",
                hint=f"Leave it out for {API}; GovSlack's is https://slack-gov.com/api.",
            )
        silent = logging.getLogger("platen.slack")  # the SDK logs each failed attempt as an error
        silent.setLevel(logging.CRITICAL)
        self._web = WebClient(
            token, base_url=api, timeout=timeout, logger=silent, retry_handlers=[_retry_handler(wait)]
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
        from slack_sdk.errors import SlackApiError

        try:
            answer = self._web.api_call(method, params=dict(parameters)).data
            trouble = "an answer that is no JSON object"
            if isinstance(answer, dict):
                return answer
        except SlackApiError as error:
            status = (
                error.response["status"] if isinstance(error.response, dict) else error.response.status_code
            )
            if status == 200 and error.response.get("error"):
                _raise(method, str(error.response["error"]))
            trouble = f"status {status}"
        except (OSError, http.client.HTTPException) as error:
            trouble = type(error).__name__
        raise DataError(
            f"Slack gave no answer to {method}: {trouble}",
            hint="Run the same command again later: it goes on where it stopped.",
        )


def _retry_handler(wait: Callable[[float], None]) -> RetryHandler:
    """Waits as long as Slack says when calls come too fast, and tries again after failures of the network."""
    from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryHandler, RetryState

    class Patient(RetryHandler):
        def can_retry(
            self,
            *,
            state: RetryState,
            request: HttpRequest,
            response: HttpResponse | None = None,
            error: Exception | None = None,
        ) -> bool:
            state.custom_values = state.custom_values or {"failures": 0, "waits": 0}
            if response is None:
                return int(state.custom_values["failures"]) < _ATTEMPTS - 1
            if response.status_code == 429:
                return int(state.custom_values["waits"]) < _MOST_WAITS
            return response.status_code >= 500 and int(state.custom_values["failures"]) < _ATTEMPTS - 1

        def prepare_for_next_attempt(
            self,
            *,
            state: RetryState,
            request: HttpRequest,
            response: HttpResponse | None = None,
            error: Exception | None = None,
        ) -> None:
            counts = state.custom_values or {}
            if response is not None and response.status_code == 429:
                counts["waits"] += 1
                headers = {name.lower(): values[0] for name, values in response.headers.items()}
                wait(_retry_after(headers.get("retry-after", "")))
            else:
                counts["failures"] += 1
                wait(min(2.0 ** counts["failures"], 30.0))
            state.next_attempt_requested = True
            state.increment_current_attempt()

    return Patient()


def next_cursor(answer: Mapping[str, Any]) -> str:
    """Where the next page begins; empty on the last."""
    metadata = answer.get("response_metadata")
    cursor = metadata.get("next_cursor") if isinstance(metadata, dict) else ""
    return cursor if isinstance(cursor, str) else ""


def _raise(method: str, code: str) -> None:
    if code in _REFUSED:
        raise DataError(f"Slack refuses {method}: {code}", hint=_REFUSED[code])
    raise SlackError(method, code)


def _retry_after(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 30.0
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else 30.0
