"""Sampling against a plain NumPy statement of each definition."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from platen.engines.batching.sampling import (
    Filters,
    RandomStream,
    Row,
    adjusted,
    filtered_distribution,
    inverse_cdf,
    logprobs_of,
    sample,
)
from platen.engines.protocol import SamplingParams

Vector = NDArray[np.float64]

logits_rows = st.integers(1, 12).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-20, 20, width=32), min_size=size, max_size=size), min_size=1, max_size=5
    )
)
filter_settings = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.1, 3),
        "top_k": st.integers(0, 14),
        "top_p": st.floats(0.01, 1),
        "min_p": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
        "typical_p": st.sampled_from([1.0, 0.95, 0.5, 0.1]),
    }
)


def definition(
    logits: Vector, temperature: float, top_k: int, top_p: float, min_p: float, typical_p: float
) -> Vector:
    """One row, step by step as the papers say it."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if top_k > 0:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p < 1:
        mass, keep = 0.0, []
        for i in order:
            if keep and mass >= top_p:
                break
            keep.append(i)
            mass += p[i]
        p[np.array([i for i in order if i not in keep], dtype=int)] = 0
        p /= p.sum()
    p[p < min_p * p.max()] = 0
    p /= p.sum()
    if typical_p < 1:
        alive = [i for i in order if p[i] > 0]
        entropy = -sum(p[i] * np.log(p[i]) for i in alive)
        mass, keep = 0.0, []
        for i in sorted(alive, key=lambda i: (abs(-np.log(p[i]) - entropy), order.index(i))):
            if keep and mass >= typical_p:
                break
            keep.append(i)
            mass += p[i]
        p[np.array([i for i in alive if i not in keep], dtype=int)] = 0
        p /= p.sum()
    return p


def filtered(logits: NDArray[Any], params: list[SamplingParams], **options: Any) -> Vector:
    """`filtered_distribution`, by token id."""
    temperature = np.array([p.temperature for p in params])
    probabilities, token_ids = filtered_distribution(logits, temperature, Filters.of(params), **options)
    by_token = np.zeros(logits.shape)
    for row, (ids, values) in enumerate(zip(token_ids, probabilities, strict=True)):
        np.add.at(by_token[row], ids, values)
    return by_token


def near_an_edge(logits: Vector, setting: dict[str, Any]) -> bool:
    """Whether a hair's breadth in a parameter changes what is kept: rounding may fall on either side."""
    kept = set()
    for nudge in (-1e-9, 0, 1e-9):
        near = dict(setting)
        for key in ("top_p", "typical_p"):
            if near[key] < 1:
                near[key] += nudge
        near["min_p"] = min(1.0, setting["min_p"] * (1 + nudge))
        jittered = logits + 1e-10 * nudge / 1e-9 * np.arange(len(logits))
        for values in (logits, jittered):
            kept.add(tuple(np.nonzero(definition(values.copy(), **near))[0]))
    return len(kept) > 1


@given(rows=logits_rows, setting=filter_settings)
@settings(max_examples=300)
def test_filters_match_their_definition(rows: list[list[float]], setting: dict[str, Any]) -> None:
    logits = np.float32(rows)
    result = filtered(logits, [SamplingParams(**setting)] * len(rows))
    for row, found in enumerate(result):
        values = np.float64(logits[row])
        if not near_an_edge(values, setting):
            np.testing.assert_allclose(found, definition(values.copy(), **setting), atol=1e-12)


@given(seed=st.integers(0, 1000), setting=filter_settings, ties=st.booleans())
@settings(max_examples=60)
def test_a_shortlist_gives_what_the_whole_vocabulary_gives(
    seed: int, setting: dict[str, Any], ties: bool
) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (3, 200))
    if ties:
        logits = logits.round()
    params = [SamplingParams(**setting), SamplingParams(top_k=3), SamplingParams(**setting | {"top_k": 0})]
    np.testing.assert_allclose(
        filtered(logits, params, shortlist=8), filtered(logits, params, shortlist=1000), atol=1e-12
    )


def test_top_p_by_hand() -> None:
    # Probabilities 0.5, 0.25, 0.125, 0.125: half the mass is one token, 0.6 needs two, 0.9 all four.
    logits = np.log(np.float32([[0.5, 0.25, 0.125, 0.125]]))
    for p, expected in [(0.5, [1, 0, 0, 0]), (0.6, [2 / 3, 1 / 3, 0, 0]), (0.9, [0.5, 0.25, 0.125, 0.125])]:
        np.testing.assert_allclose(filtered(logits, [SamplingParams(top_p=p)])[0], expected, atol=1e-7)


def test_min_p_by_hand() -> None:
    # A quarter of 0.5 is 0.125: what is exactly as likely stays.
    logits = np.log(np.float32([[0.5, 0.3, 0.126, 0.074]]))
    found = filtered(logits, [SamplingParams(min_p=0.25)])[0]
    np.testing.assert_allclose(found, np.array([0.5, 0.3, 0.126, 0]) / 0.926, atol=1e-6)


def test_typical_p_by_hand() -> None:
    # Entropy of (0.7, 0.1, 0.1, 0.1) is 0.94 nats; the surprise of 0.7 is 0.357, that of 0.1 is 2.303.
    # The first is nearer (0.58 against 1.36), and its mass reaches 0.7.
    logits = np.log([[0.7, 0.1, 0.1, 0.1]])
    np.testing.assert_allclose(filtered(logits, [SamplingParams(typical_p=0.69)])[0], [1, 0, 0, 0])
    np.testing.assert_allclose(
        filtered(logits, [SamplingParams(typical_p=0.75)])[0], [7 / 8, 1 / 8, 0, 0], atol=1e-12
    )


def test_top_k_keeps_exactly_k_of_equals_lowest_ids_first() -> None:
    found = filtered(np.zeros((1, 5), np.float32), [SamplingParams(top_k=2)])
    assert found[0].tolist() == [0.5, 0.5, 0, 0, 0]
    found = filtered(np.zeros((1, 50), np.float32), [SamplingParams(top_k=2)], shortlist=4)
    assert np.nonzero(found[0])[0].tolist() == [0, 1]


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6),
    written=st.lists(st.integers(0, 5), max_size=8),
    prompt=st.lists(st.integers(0, 5), max_size=4),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    bias=st.dictionaries(st.integers(0, 5), st.floats(-100, 100), max_size=3),
    banned=st.sets(st.integers(0, 5), max_size=2),
)
@settings(max_examples=200)
def test_penalties_and_biases_match_their_definition(
    logits: list[float],
    written: list[int],
    prompt: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
    banned: set[int],
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(bias.items()),
    )
    row = Row(params, 0.5, Counter(written), prompt, tuple(banned))
    plain = Row(SamplingParams(), 0.5, Counter(written), prompt)
    table = np.float32([logits, logits])
    found = adjusted(table, [row, plain])
    expected = np.float64(table[0])
    for token in range(6):
        expected[token] += bias.get(token, 0)
        if token in written or token in prompt:
            expected[token] *= 1 / repetition if expected[token] > 0 else repetition
        expected[token] -= frequency * written.count(token) + presence * (token in written)
        if token in banned:
            expected[token] = -np.inf
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)
    assert found[1].tolist() == table[1].tolist()


@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=10).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_inverse_cdf_matches_its_definition(weights: list[int], uniform: float) -> None:
    total = sum(weights)
    probabilities = np.array([weights]) / total
    index = int(inverse_cdf(probabilities, np.array([uniform]))[0])
    assert weights[index] > 0
    before, after = sum(weights[:index]) / total, sum(weights[: index + 1]) / total
    assert before - 1e-12 <= uniform <= after + 1e-12


@given(rows=logits_rows, seed=st.integers(0, 2**63 - 1), data=st.data())
@settings(max_examples=100)
def test_a_row_is_sampled_alike_alone_and_in_a_batch(
    rows: list[list[float]], seed: int, data: st.DataObject
) -> None:
    choices = [
        Row(
            SamplingParams(
                temperature=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
                top_k=data.draw(st.integers(0, 3)),
                top_p=data.draw(st.sampled_from([0.5, 0.9, 1.0])),
                min_p=data.draw(st.sampled_from([0.0, 0.1])),
                typical_p=data.draw(st.sampled_from([0.5, 1.0])),
                frequency_penalty=data.draw(st.sampled_from([0.0, 0.7])),
            ),
            RandomStream(seed + row).uniform(),
            Counter({0: row}) if row else Counter(),
        )
        for row in range(len(rows))
    ]
    together = sample(np.float32(rows), choices)
    assert together == [
        sample(np.float32([logits]), [choice])[0] for logits, choice in zip(rows, choices, strict=True)
    ]
    for values, choice, token in zip(rows, choices, together, strict=True):
        if choice.params.temperature == 0 and not choice.adjusted:
            assert token == int(np.argmax(np.float32(values)))


def test_a_large_vocabulary_is_sampled_alike_alone_and_in_a_batch() -> None:
    logits = np.float32(np.random.default_rng(0).normal(0, 2, (6, 5000)))
    logits[2] = 0  # top_p reaches far beyond any shortlist
    rows = [
        Row(SamplingParams(top_p=p, top_k=k), u)
        for p, k, u in [
            (0.9, 0, 0.3),
            (0.5, 0, 0.99),
            (0.9, 0, 0.7),
            (1, 40, 0.2),
            (0.999, 0, 0.5),
            (1, 0, 0.4),
        ]
    ]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]


@pytest.mark.parametrize("temperature", [1e-5, 1e-308, 5e-324])
def test_the_smallest_temperatures_take_the_likeliest(temperature: float) -> None:
    logits = np.float32([[1.0, -3.0, 7.5, 7.0]]).repeat(3, 0)
    rows = [
        Row(SamplingParams(temperature=temperature, top_p=p, top_k=k), uniform)
        for p, k, uniform in [(1, 0, 0.0), (0.5, 0, 0.5), (1, 3, 0.999)]
    ]
    assert sample(logits, rows) == [2, 2, 2]


def test_frequencies_follow_the_distribution() -> None:
    logits = np.log(np.float32([[0.6, 0.3, 0.1]])).repeat(3000, 0)
    stream = RandomStream(1)
    chosen = sample(logits, [Row(SamplingParams(), stream.uniform()) for _ in range(3000)])
    shares = np.bincount(chosen, minlength=3) / 3000
    # Four standard deviations of a share of 0.6 over 3,000 draws are 0.036.
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.036)


def test_streams_repeat_with_a_seed_and_differ_without() -> None:
    def first(seed: int | None) -> list[float]:
        stream = RandomStream(seed)
        return [stream.uniform() for _ in range(4)]

    assert first(5) == first(5) != first(6)
    assert first(None) != first(None)


def test_logprobs_are_the_models_own() -> None:
    logits = np.log(np.float32([[0.5, 0.125, 0.375]]))
    row = logprobs_of(logits, [1], top=2)[0]
    assert row.logprob == pytest.approx(np.log(0.125), abs=1e-6)
    assert [token_id for token_id, _ in row.top] == [0, 2]
    assert [value for _, value in row.top] == pytest.approx([np.log(0.5), np.log(0.375)], abs=1e-6)
    assert len(logprobs_of(logits, [0], top=20)[0].top) == 3
