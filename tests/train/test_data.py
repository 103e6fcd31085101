"""Windows of a packed file: what a batch holds and how a position is found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from platen.core.errors import TrainingError
from platen.train.data import IGNORE, PackedLoader, evaluation_batches


def loader(length: int = 103, *, batch: int = 4, width: int = 10, **options: int) -> PackedLoader:
    tokens = np.arange(length, dtype=np.uint16)
    return PackedLoader(tokens, sequence_length=width, batch_size=batch, seed=1, **options)


def test_targets_are_the_inputs_moved_by_one() -> None:
    # The corpus counts upwards, so each target must be its input plus one.
    batch = loader().batch(0)
    assert batch.inputs.shape == batch.targets.shape == (4, 10)
    assert torch.equal(batch.targets, batch.inputs + 1)


def test_a_pass_shows_each_window_once_and_the_next_in_another_order() -> None:
    # 103 tokens: (103 - 10) // 10 = 9 windows; 3 rows a step, so 3 steps are one pass.
    data = loader(batch=3)
    passes = [
        torch.cat([data.batch(step).inputs[:, 0] for step in range(first, first + 3)]).tolist()
        for first in (0, 3)
    ]
    for starts in passes:
        shift = min(starts)
        assert 0 <= shift < 10
        assert sorted(starts) == [shift + 10 * i for i in range(9)]
    assert passes[0] != passes[1]


def test_any_position_is_read_directly() -> None:
    walked = loader()
    batches = [walked.batch(step) for step in range(12)]
    assert torch.equal(loader().batch(11).inputs, batches[11].inputs)
    assert torch.equal(walked.batch(2).inputs, batches[2].inputs)


def test_processes_share_the_one_batch() -> None:
    whole = loader().batch(5).inputs
    shares = [loader().batch(5, rank=rank, world_size=2).inputs for rank in (0, 1)]
    assert torch.equal(torch.cat(shares), whole)


def test_another_seed_is_another_order() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    a, b = (PackedLoader(tokens, sequence_length=10, batch_size=4, seed=s).batch(0).inputs for s in (1, 2))
    assert not torch.equal(a, b)


def test_padding_is_no_target() -> None:
    batch = loader(ignore_id=50, batch=9).batch(0)
    assert 50 in batch.inputs
    assert 50 not in batch.targets
    assert (batch.targets == IGNORE).sum() == 1


def test_passes_count_all_tokens() -> None:
    assert loader(100).passes(5) == pytest.approx(5 * 40 / 100)


def test_a_corpus_smaller_than_a_batch_is_refused() -> None:
    loader(50)
    with pytest.raises(TrainingError, match=r"49 tokens.*at least 50"):
        loader(49)


def test_evaluation_windows_are_spread_and_bounded() -> None:
    tokens = np.arange(101, dtype=np.uint16)
    batches = evaluation_batches(tokens, sequence_length=10, batch_size=2, max_tokens=35)
    assert [b.inputs.shape[0] for b in batches] == [2, 1]
    assert torch.cat([b.inputs[:, 0] for b in batches]).tolist() == [0, 30, 60]
    assert torch.equal(batches[0].targets, batches[0].inputs + 1)


def test_evaluation_of_a_short_split_uses_all_of_it() -> None:
    (batch,) = evaluation_batches(
        np.arange(5, dtype=np.uint16), sequence_length=10, batch_size=2, max_tokens=99
    )
    assert batch.inputs.tolist() == [[0, 1, 2, 3]]
    with pytest.raises(TrainingError, match="1 token"):
        evaluation_batches(np.zeros(1, dtype=np.uint16), sequence_length=10, batch_size=2, max_tokens=99)
