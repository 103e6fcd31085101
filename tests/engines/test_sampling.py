"""Sampling against a plain NumPy statement of each definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.engines.protocol import SamplingParams
from platen.engines.sampling import (
    RandomStream,
    filtered_distribution,
    inverse_cdf,
    logprobs_of,
    sample,
)

logits_rows = st.integers(1, 12).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-20, 20, width=32), min_size=size, max_size=size), min_size=1, max_size=5
    )
)


def numpy_distribution(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """One row, step by step as the papers say it."""
    scaled = logits.astype(np.float64) / temperature
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i], i))
    if top_k > 0:
        order = order[:top_k]
    weights = {i: np.exp(scaled[i] - scaled[order[0]]) for i in order}
    total = sum(weights.values())
    kept, mass = [], 0.0
    for i in order:
        if kept and mass >= top_p and top_p < 1:
            break
        kept.append(i)
        mass += weights[i] / total
    result = np.zeros(len(scaled))
    for i in kept:
        result[i] = weights[i]
    return result / result.sum()


@given(
    rows=logits_rows,
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1),
)
@settings(max_examples=200, deadline=None)
def test_filters_match_their_definition(
    rows: list[list[float]], temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.tensor(rows)
    count = len(rows)
    probabilities, token_ids = filtered_distribution(
        logits,
        torch.full((count,), temperature, dtype=torch.float64),
        torch.full((count,), top_k),
        torch.full((count,), top_p, dtype=torch.float64),
    )
    by_token = torch.zeros_like(probabilities).scatter(1, token_ids, probabilities).numpy()
    for row in range(count):
        expected = numpy_distribution(logits[row].numpy(), temperature, top_k, top_p)
        # A sum that reaches p exactly may fall on either side by rounding: then one token more or less.
        if np.count_nonzero(expected) == np.count_nonzero(by_token[row]):
            np.testing.assert_allclose(by_token[row], expected, atol=1e-12)
        else:
            mass = np.sort(numpy_distribution(logits[row].numpy(), temperature, top_k, 1.0))[::-1].cumsum()
            assert np.min(np.abs(mass - top_p)) < 1e-9


def test_top_p_by_hand() -> None:
    # Probabilities 0.5, 0.25, 0.125, 0.125: half the mass is one token, 0.6 needs two, 0.75 exactly two.
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
    one = torch.ones(1, dtype=torch.float64)
    for p, expected in [(0.5, [1, 0, 0, 0]), (0.6, [2 / 3, 1 / 3, 0, 0]), (0.9, [0.5, 0.25, 0.125, 0.125])]:
        probabilities, _ = filtered_distribution(logits, one, torch.zeros(1), one * p)
        np.testing.assert_allclose(probabilities[0].numpy(), expected, atol=1e-7)


def test_top_k_keeps_exactly_k_of_equals_lowest_ids_first() -> None:
    one = torch.ones(1, dtype=torch.float64)
    probabilities, token_ids = filtered_distribution(torch.zeros(1, 5), one, torch.tensor([2]), one)
    assert token_ids[0, :2].tolist() == [0, 1]
    assert probabilities[0].tolist() == [0.5, 0.5, 0, 0, 0]


@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=10).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
@settings(deadline=None)
def test_inverse_cdf_matches_its_definition(weights: list[int], uniform: float) -> None:
    total = sum(weights)
    probabilities = torch.tensor([weights], dtype=torch.float64) / total
    index = int(inverse_cdf(probabilities, torch.tensor([uniform]).double())[0])
    assert weights[index] > 0
    before, after = sum(weights[:index]) / total, sum(weights[: index + 1]) / total
    assert before - 1e-12 <= uniform <= after + 1e-12


@given(rows=logits_rows, seed=st.integers(0, 2**63 - 1), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_row_is_sampled_alike_alone_and_in_a_batch(
    rows: list[list[float]], seed: int, data: st.DataObject
) -> None:
    params = [
        SamplingParams(
            temperature=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
            top_k=data.draw(st.integers(0, 3)),
            top_p=data.draw(st.sampled_from([0.5, 0.9, 1.0])),
        )
        for _ in rows
    ]
    uniforms = [RandomStream(seed + row).uniform() for row in range(len(rows))]
    together = sample(torch.tensor(rows), params, uniforms)
    alone = [
        sample(torch.tensor([logits]), [p], [u])[0]
        for logits, p, u in zip(rows, params, uniforms, strict=True)
    ]
    assert together == alone
    for row, p in enumerate(params):
        if p.temperature == 0:
            assert together[row] == int(np.argmax(np.float32(rows[row])))
        else:
            assert (
                numpy_distribution(np.float32(rows[row]), p.temperature, p.top_k, p.top_p)[together[row]] > 0
            )


@pytest.mark.parametrize("temperature", [1e-5, 1e-308, 5e-324])
def test_the_smallest_temperatures_take_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([[1.0, -3.0, 7.5, 7.0]]).expand(3, 4)
    params = [
        SamplingParams(temperature=temperature, top_p=p, top_k=k) for p, k in [(1, 0), (0.5, 0), (1, 3)]
    ]
    assert sample(logits, params, [0.0, 0.5, 0.999]) == [2, 2, 2]


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).expand(3000, 3)
    stream = RandomStream(1)
    chosen = sample(logits, [SamplingParams()] * 3000, [stream.uniform() for _ in range(3000)])
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
    logits = torch.log(torch.tensor([[0.5, 0.125, 0.375]]))
    row = logprobs_of(logits, [1], top=2)[0]
    assert row.logprob == pytest.approx(np.log(0.125), abs=1e-6)
    assert [token_id for token_id, _ in row.top] == [0, 2]
    assert [value for _, value in row.top] == pytest.approx([np.log(0.5), np.log(0.375)], abs=1e-6)
    assert len(logprobs_of(logits, [0], top=20)[0].top) == 3
