"""Gates: thresholds and comparison with production, and what the user is told."""

import math

import pytest

from platen.core.errors import ConfigError
from platen.evaluate.metrics import OWN
from platen.registry.config import GateRule
from platen.registry.gate import check

KNOWN = {metric.name: metric for metric in OWN}
METRICS = {"bits_per_byte": 2.10, "tokens_per_second": 900.0, "parameters": 1000.0}


def outcome(metrics=METRICS, production=None, **rule):
    return check(
        [GateRule(metric="bits_per_byte") if not rule else GateRule(**rule)], metrics, production, KNOWN
    )


@pytest.mark.parametrize(
    ("rule", "passed", "text"),
    [
        ({"max": 2.25}, True, "bits_per_byte 2.1, at most 2.25 wanted: met with 0.15 (6.7%)"),
        ({"max": 2.10}, True, "met with 0 (0.0%)"),
        ({"max": 2.0}, False, "bits_per_byte 2.1, at most 2 wanted: missed by 0.1 (5.0%)"),
        ({"min": 2.0}, True, "at least 2 wanted: met with 0.1"),
        ({"min": 3.0}, False, "missed by 0.9 (30.0%)"),
    ],
)
def test_thresholds_say_by_how_much(rule, passed, text):
    found = outcome(metric="bits_per_byte", **rule)
    assert found.passed is passed
    assert text in found.lines[0]
    assert bool(found.failures) is not passed


@pytest.mark.parametrize(
    ("metric", "theirs", "by", "passed"),
    [
        ("bits_per_byte", 2.0, 0.05, False),  # 0.10 worse
        ("bits_per_byte", 2.0, 0.2, True),
        ("bits_per_byte", 2.2, 0.0, True),  # better
        ("bits_per_byte", 2.1, 0.0, True),  # equal
        ("tokens_per_second", 1000.0, 0.0, False),  # slower is worse
        ("tokens_per_second", 1000.0, 100.0, True),
        ("tokens_per_second", 500.0, 0.0, True),
    ],
)
def test_no_worse_than_production_knows_which_way_is_better(metric, theirs, by, passed):
    found = outcome(metric=metric, no_worse_than="production", by=by, production={metric: theirs})
    assert found.passed is passed


def test_nothing_in_production_passes_and_says_so():
    found = outcome(metric="bits_per_byte", no_worse_than="production")
    assert found.passed
    assert "nothing in production yet" in found.lines[0]


def test_a_metric_that_production_lacks_fails():
    assert not outcome(metric="bits_per_byte", no_worse_than="production", production={"loss": 1.0}).passed


@pytest.mark.parametrize("rule", [{"max": 9.0}, {"min": 0.0}, {"no_worse_than": "production"}])
def test_a_metric_that_is_not_a_number_meets_nothing(rule):
    found = check([GateRule(metric="loss", **rule)], {"loss": math.nan}, {"loss": 1.0}, KNOWN)
    assert not found.passed
    assert not check([GateRule(metric="loss", **rule)], {"loss": math.nan}, None, KNOWN).passed


def test_an_unknown_metric_lists_what_there_is():
    with pytest.raises(
        ConfigError, match=r"no metric 'bpb'(.|\n)*bits_per_byte, parameters, tokens_per_second"
    ):
        outcome(metric="bpb", max=1.0)


def test_a_metric_without_a_better_side_cannot_be_compared():
    with pytest.raises(ConfigError, match="'parameters' can't be compared with production"):
        outcome(metric="parameters", no_worse_than="production", production=METRICS)


def test_every_condition_counts_and_gets_its_line():
    rule = GateRule(metric="bits_per_byte", max=3.0, min=2.5, no_worse_than="production")
    found = check([rule], METRICS, None, KNOWN)
    assert [line[0] for line in found.lines] == ["✓", "✗", "✓"]
    assert not found.passed
    assert check([], METRICS, None, KNOWN).passed
