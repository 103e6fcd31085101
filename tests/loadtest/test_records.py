"""The figures of a load test, worked out by hand, and against NumPy's exact definitions."""

from __future__ import annotations

import pytest

from platen.loadtest.records import Record, Slo, summarize


def answered(scheduled: float, sent: float, pieces: list[float], tokens: int, prompt: int = 10) -> Record:
    return Record(scheduled, sent, pieces[-1], pieces, prompt, tokens, "ok")


def test_a_requests_times_by_hand() -> None:
    """Due at 1 s, sent late at 1.5; text at 2, 3 and 5 s; five tokens in three pieces."""
    record = answered(1.0, 1.5, [2.0, 3.0, 5.0], tokens=5)
    assert record.ttft == 1.0  # from when it was due, not from when it was sent
    assert record.e2e == 4.0
    assert record.tpot == pytest.approx(3.0 / 4)
    summary = summarize([record])
    assert summary.itl is not None
    assert summary.itl.count == 2
    assert summary.itl.mean == pytest.approx(1.5)
    assert summary.late_p99 == pytest.approx(0.5)


def test_throughput_counts_answers_over_the_whole_run() -> None:
    records = [answered(0, 0, [1.0, 2.0], 4), answered(0, 0, [1.0, 4.0], 6), Record(1, 1, 3, outcome="429")]
    summary = summarize(records)
    assert summary.seconds == 4.0
    assert summary.request_throughput == 2 / 4
    assert summary.output_throughput == 10 / 4
    assert summary.total_throughput == 30 / 4
    assert summary.outcomes == {"ok": 2, "429": 1}
    assert summary.peak_in_flight == 3


def test_percentiles_interpolate_as_vllms_do() -> None:
    """Of 1 to 5 the 90th percentile lies at rank 3.6 counted from 0: 4.6."""
    summary = summarize([answered(0, 0, [float(n)], 1) for n in range(1, 6)])
    assert summary.ttft is not None
    assert (summary.ttft.p50, summary.ttft.p90, summary.ttft.mean) == (3.0, pytest.approx(4.6), 3.0)
    assert summary.tpot is None  # nobody wrote a second token


def test_refusals_miss_the_objectives_and_unfinished_requests_do_not_count() -> None:
    slo = Slo.parse("ttft=500ms,tpot=1s")
    records = [
        answered(0, 0, [0.5, 1.5], 2),  # exactly at both limits
        answered(0, 0, [0.4], 1),  # one token has no time per token
        answered(0, 0, [0.6, 0.7], 2),  # first token too late
        answered(0, 0, [0.1, 2.2], 2),  # the second too slow
        Record(0, 0, 0.1, outcome="503"),
        Record(0, 0, 0.0),  # still running when the test was stopped
    ]
    summary = summarize(records, slo)
    assert summary.slo_share == 2 / 5
    assert summary.goodput == pytest.approx(2 / 2.2)


def test_objectives_are_read_and_written() -> None:
    assert Slo.parse("ttft=500ms, tpot=0.05s,e2el=2s") == Slo(0.5, 0.05, 2.0)
    assert str(Slo.parse("ttft=0.5s")) == "ttft=500ms"
    for wrong in ("", "ttft", "ttft=", "ttft=5", "ttft=-1s", "ttft=nans", "p99=1s", "ttft=1s,ttft=2s"):
        with pytest.raises(ValueError, match=r"an objective is|is not a time"):
            Slo.parse(wrong)


def test_nothing_measured_is_no_error() -> None:
    summary = summarize([], Slo(1.0))
    assert summary.ttft is summary.slo_share is None
    assert summary.request_throughput == 0
