"""Checks of single texts in the project file: each gives the text back, or a ValueError that says why not."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import urlsplit

_CRON_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)


def check_cron(expression: str) -> str:
    """The expression itself, if croniter can follow it: five fields by crontab(5), none of them random."""
    from croniter import CroniterError, croniter

    fields = expression.split(" ")
    if len(fields) != 5:
        raise ValueError(
            f"a cron expression has five fields (minute hour day month weekday), not {len(fields)}; "
            "nightly at three is `0 3 * * *`"
        )
    for place, (text, (what, low, high)) in enumerate(zip(fields, _CRON_FIELDS, strict=True)):
        alone = " ".join(text if at == place else "*" for at in range(5))
        if text.lower().startswith(("r", "h")) or not croniter.is_valid(alone):
            raise ValueError(f"the {what} field `{text}` is not *, or numbers from {low} to {high}")
    try:
        croniter(expression, datetime.now(UTC)).get_next()
    except CroniterError:
        raise ValueError(f"no date is ever `{expression}`") from None
    return expression


def check_encoding(name: str) -> str:
    """The name itself, if Python has a text encoding of that name."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError("Python knows no text encoding of this name; try utf-8 or latin-1") from None
    return name


def check_split(by: str, key: str | None, validation_from: str | None, test_from: str | None) -> None:
    """Whether a split has what its rule needs and nothing that another rule would. Raises ValueError."""
    if (key is not None) != (by in ("group", "time")):
        raise ValueError(f"splitting by {by} " + ("needs a key" if key is None else "has no key"))
    if by != "time":
        if validation_from is not None or test_from is not None:
            raise ValueError("validation_from and test_from are for splitting by time")
        return
    if validation_from is None:
        raise ValueError("splitting by time needs validation_from")
    begin = _moment(validation_from)
    if test_from is not None and _moment(test_from) <= begin:
        raise ValueError("test_from must be later than validation_from")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no ISO date or time; one looks like 2026-03-01") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def check_base_url(url: str) -> str:
    """The URL without a slash at its end, if it is one of HTTP with nothing secret in it.

    Messages never repeat the URL: what is wrong with it may be that it holds a key.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("this is no URL; one looks like https://api.example.com/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must not hold credentials; put the key in a variable, api_key_env: ITS_NAME")
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("allowed are http and https URLs, such as https://api.example.com/v1")
    if "?" in url or "#" in url:
        raise ValueError("the URL must end with its path, without ? and #")
    return url.rstrip("/")


def check_variable_name(name: str) -> str:
    """The name itself, if an environment variable can have it. Never repeated: it may be the key itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            "this is no name of an environment variable; put the key in a variable and its name here"
        )
    return name
