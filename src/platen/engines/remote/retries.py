"""When to ask a service again, and after how long: exponential backoff with jitter, and Retry-After."""

from __future__ import annotations

import random
import re
import time
from email.utils import parsedate_to_datetime

LONGEST_BACKOFF = 8.0
"""Seconds that doubling delays grow to."""
LONGEST_RETRY_AFTER = 30.0
"""A service that wants to be left alone for longer, in seconds, is not waited for."""


def is_transient(status: int) -> bool:
    """Whether the same request may well succeed a little later."""
    return status in (408, 409, 429) or status >= 500


def wait_before_retry(attempt: int, delay: float, retry_after: float | None) -> float | None:
    """Seconds to wait after failed attempt number `attempt` (from 0); None when it is not worth waiting.

    The wait is between half and the whole of `delay` * 2 ** `attempt`, at random, so that many who failed
    together do not come back together; `retry_after` is waited before that.
    """
    if retry_after is not None and retry_after > LONGEST_RETRY_AFTER:
        return None
    backoff = min(delay * 2.0**attempt, LONGEST_BACKOFF)
    return (retry_after or 0.0) + backoff * random.uniform(0.5, 1.0)


def retry_after_seconds(header: str | None) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3) asks for: a number or a date. None for neither."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
