"""Checks of single texts in the project file."""

import pytest

from platen.core.checks import check_cron


@pytest.mark.parametrize(
    "expression",
    ["* * * * *", "0 3 * * *", "*/5 0-6/2 1,15 jan-mar sun", "0 0 29 2 *", "30 4 1 * mon-fri", "0 12 * * 7"],
)
def test_what_cron_runs_passes(expression):
    assert check_cron(expression) == expression


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("@daily", "five fields"),
        ("0 3 * *", "not 4"),
        ("0 3 * * * *", "not 6"),
        ("0  3 * * *", "not 6"),
        ("60 * * * *", r"minute field `60` is not \*, or numbers from 0 to 59"),
        ("0 25 * * *", "hour field `25`"),
        ("0 0 0 * *", "day of the month field `0`"),
        ("0 0 * foo *", "month field `foo`"),
        ("0 0 * * 8", "day of the week field `8`"),
        ("*/0 * * * *", "minute field"),
        ("-1 * * * *", "minute field"),
        ("r * * * *", "minute field `r`"),
        ("0 h * * *", "hour field `h`"),
        ("0 0 30 2 *", "no date is ever"),
    ],
)
def test_what_it_does_not_is_refused_by_its_field(expression, message):
    with pytest.raises(ValueError, match=message):
        check_cron(expression)
