"""The outcome of each request of a load test, and the stats of a run.

Definitions are those of vLLM's `bench serve`, so that figures can be set side by side:

- TTFT, time to first token: from the request to the first piece of its stream that has text. (vLLM takes the
  first piece of any kind; one that only opens a message has no token, and GenAI-Perf skips it too.)
- E2E, end-to-end latency: from the request to the last piece of its stream.
- TPOT, time per output token: (E2E - TTFT) / (output tokens - 1) of one request; the server's own count of
  tokens where it gives one. GuideLLM calls this inter-token latency, and its TPOT has the first token in it.
- ITL, inter-token latency: each gap between two pieces of a stream, all requests' gaps pooled.
- throughput: completed requests, and their tokens, over the seconds from the first request to the last
  answer's end. Goodput: the same for requests that met every objective.

One thing differs on purpose. In open loop a request's clock starts when it was *scheduled* to be sent, not
when the client got round to sending it, so that a client held up by a slow server does not make the server
look fast ("coordinated omission", Gil Tene). vLLM's clock starts at the sending.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

UNFINISHED = "unfinished"
"""The outcome of a request that was still running when the test was stopped."""
OK = "ok"


@dataclass
class Record:
    """One request. Times are seconds since the test began; `pieces` are the times at which text arrived.

    `outcome` is `ok`, `unfinished`, or what went wrong: `429`, `503`, another HTTP status, `timeout`,
    `connection`, `broken stream`.
    """

    scheduled: float
    sent: float = 0.0
    ended: float = 0.0
    pieces: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    outcome: str = UNFINISHED
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome == OK

    @property
    def ttft(self) -> float:
        return self.pieces[0] - self.scheduled

    @property
    def e2e(self) -> float:
        return self.pieces[-1] - self.scheduled

    @property
    def tpot(self) -> float | None:
        """None of a single token; for an objective that counts as 0, as in vLLM."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclass(frozen=True)
class Slo:
    """Objectives for each request, in seconds; None is no objective."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """`ttft=500ms,tpot=50ms`; units ms and s; `e2el`, vLLM's name, is `e2e`. Raises ValueError."""
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            name = {"e2el": "e2e"}.get(name.strip(), name.strip())
            if name not in ("ttft", "tpot", "e2e") or name in found:
                raise ValueError(f"{part.strip()!r}: an objective is ttft, tpot or e2e, each once")
            found[name] = _seconds(value.strip())
        return cls(**found)

    def met_by(self, record: Record) -> bool:
        """Whether a request was answered, and within every objective."""
        if not record.ok:
            return False
        times = ((self.ttft, record.ttft), (self.tpot, record.tpot or 0.0), (self.e2e, record.e2e))
        return all(limit is None or time <= limit for limit, time in times)

    def __str__(self) -> str:
        named = (("ttft", self.ttft), ("tpot", self.tpot), ("e2e", self.e2e))
        return ",".join(f"{name}={limit * 1000:g}ms" for name, limit in named if limit is not None)


def _seconds(text: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1.0)):
        if text.endswith(unit):
            with suppress(ValueError):
                number = float(text.removesuffix(unit))
                if 0 < number < math.inf:
                    return number * factor
            break
    raise ValueError(f"{text!r} is not a time such as 500ms or 2s")


@dataclass(frozen=True)
class Spread:
    """Mean and percentiles in seconds, interpolated linearly as NumPy and vLLM do."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None when nothing was measured."""
        if not values:
            return None
        p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
        return cls(len(values), float(np.mean(values)), p50, p90, p95, p99)


@dataclass(frozen=True)
class Summary:
    """The stats of one run; times in seconds, rates per second.

    `outcomes` counts all requests by what became of them. `slo_share` is the share of requests that met the
    objectives among all that were sent and are over: refusals and failures miss them, unfinished ones do not
    count. `late_p99` is how long after its scheduled time the client sent a request: when it is not small
    beside TTFT, the client and not the server is the limit.
    """

    seconds: float
    outcomes: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    request_throughput: float
    output_throughput: float
    total_throughput: float
    goodput: float | None
    slo_share: float | None
    ttft: Spread | None
    tpot: Spread | None
    itl: Spread | None
    e2e: Spread | None
    late_p99: float
    peak_in_flight: int

    @property
    def completed(self) -> int:
        return self.outcomes.get(OK, 0)


def summarize(records: Sequence[Record], slo: Slo | None = None) -> Summary:
    """The stats of a run from its records."""
    done = [record for record in records if record.ok]
    over = [record for record in records if record.outcome != UNFINISHED]
    seconds = max((record.ended for record in over), default=0.0)
    prompt = sum(record.prompt_tokens for record in done)
    output = sum(record.output_tokens for record in done)
    good = sum(slo.met_by(record) for record in done) if slo else 0

    def rate(count: int) -> float:
        return count / seconds if seconds else 0.0

    late = [record.sent - record.scheduled for record in over]
    return Summary(
        seconds=seconds,
        outcomes=dict(Counter(record.outcome for record in records).most_common()),
        prompt_tokens=prompt,
        output_tokens=output,
        request_throughput=rate(len(done)),
        output_throughput=rate(output),
        total_throughput=rate(prompt + output),
        goodput=rate(good) if slo else None,
        slo_share=good / len(over) if slo and over else None,
        ttft=Spread.of([record.ttft for record in done]),
        tpot=Spread.of([tpot for record in done if (tpot := record.tpot) is not None]),
        itl=Spread.of([gap for record in done for gap in np.diff(record.pieces).tolist()]),
        e2e=Spread.of([record.e2e for record in done]),
        late_p99=float(np.percentile(late, 99)) if late else 0.0,
        peak_in_flight=_peak(over),
    )


def _peak(records: Sequence[Record]) -> int:
    """The most requests under way at once; one that ends makes room before another begins."""
    changes = [(record.sent, 1) for record in records] + [(record.ended, -1) for record in records]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
