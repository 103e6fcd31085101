"""The sliding window against a token-by-token evaluation, and against models whose loss is known by hand."""

import math

import numpy as np
import pytest
import torch

from platen.core.errors import DataError
from platen.evaluate.perplexity import bits_per_byte, loss_by_position, sliding_window_nll
from platen.evaluate.scorer import TorchScorer

VOCAB = 7


class Uniform:
    """Every token is equally likely: ln V nats each."""

    def __call__(self, input_ids, *, logits_to_keep=0):
        kept = logits_to_keep or input_ids.shape[1]
        return torch.zeros(input_ids.shape[0], kept, VOCAB)


class SeesEverything(torch.nn.Module):
    """Logits that depend on every token to the left and on how many there are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = torch.nn.GRU(VOCAB, 5, batch_first=True)
        self.head = torch.nn.Linear(5, VOCAB)
        self.longest = 0

    def forward(self, input_ids, *, logits_to_keep=0):
        self.longest = max(self.longest, input_ids.shape[1])
        hidden, _ = self.rnn(torch.nn.functional.one_hot(input_ids, VOCAB).float() * 3)
        return self.head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)


def one_token_at_a_time(model, ids, context, stride):
    """The definition, with no batching: the window that scores token t, then its loss alone."""
    losses, lefts = [], []
    for token in range(1, len(ids)):
        if token <= context:
            start = 0
        else:
            end = min(context + math.ceil((token - context) / stride) * stride, len(ids) - 1)
            start = end - context
        logits = model(torch.tensor([ids[start:token]]))[0, -1]
        losses.append(-torch.log_softmax(logits, -1)[ids[token]].item())
        lefts.append(token - start)
    return losses, lefts


@pytest.mark.parametrize(
    ("n", "context", "stride", "batch"),
    [
        (41, 8, 4, 3),
        (41, 8, 8, 16),
        (40, 8, 1, 5),
        (43, 8, 5, 1),
        (9, 8, 4, 2),
        (10, 8, 3, 2),
        (5, 8, 4, 2),
        (2, 8, 4, 2),
    ],
)
def test_every_token_is_scored_once_with_the_promised_context(n, context, stride, batch):
    ids = np.random.default_rng(n).integers(0, VOCAB, n).tolist()
    model = SeesEverything()
    expected, lefts = one_token_at_a_time(model, ids, context, stride)
    assert all(left > context - stride for left in lefts[context:])

    model.longest = 0
    scored = sliding_window_nll(
        TorchScorer(model),
        np.array(ids, dtype=np.uint16),
        context=context,
        stride=stride,
        batch_size=batch,
        byte_count=n,
    )

    assert scored.tokens == n - 1
    assert scored.nll == pytest.approx(expected, abs=1e-5)
    assert scored.loss == pytest.approx(sum(expected) / (n - 1), abs=1e-6)
    assert model.longest <= context


def test_a_uniform_model_costs_log2_v_bits_a_token():
    # 12 tokens scored over 30 bytes: log2(7) * 12 / 30 bits per byte, perplexity 7.
    scored = sliding_window_nll(
        TorchScorer(Uniform()), [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5], context=4, byte_count=30
    )
    assert scored.bits_per_byte == pytest.approx(math.log2(7) * 12 / 30)
    assert scored.perplexity == pytest.approx(7, rel=1e-5)
    assert scored.nats == pytest.approx(12 * math.log(7), rel=1e-5)
    # First window 4 tokens, then four windows of 4 that move by 2.
    assert scored.tokens_processed == 5 * 4


def test_bits_per_byte_of_a_nat_per_byte_is_log2_e():
    assert bits_per_byte(nats=10.0, byte_count=10) == pytest.approx(1.442695, abs=1e-6)


def test_default_stride_is_half_the_context():
    ids = list(range(VOCAB)) * 6
    model = SeesEverything()
    default = sliding_window_nll(TorchScorer(model), ids, context=8, byte_count=41)
    stated = sliding_window_nll(TorchScorer(model), ids, context=8, stride=4, byte_count=41)
    np.testing.assert_array_equal(default.nll, stated.nll)


def test_loss_by_position_is_the_mean_over_windows_that_do_not_overlap():
    ids = np.random.default_rng(1).integers(0, VOCAB, 35)
    model = SeesEverything()
    windows = [
        one_token_at_a_time(model, ids[start : start + 9].tolist(), 8, 8)[0] for start in (0, 8, 16, 24)
    ]
    np.testing.assert_allclose(
        loss_by_position(TorchScorer(model), ids, context=8), np.mean(windows, axis=0), atol=1e-5
    )


def test_loss_by_position_takes_a_spread_of_windows():
    ids = np.random.default_rng(1).integers(0, VOCAB, 41)
    model = SeesEverything()
    windows = [one_token_at_a_time(model, ids[start : start + 9].tolist(), 8, 8)[0] for start in (0, 16)]
    found = loss_by_position(TorchScorer(model), ids, context=8, windows=2)
    np.testing.assert_allclose(found, np.mean(windows, axis=0), atol=1e-5)


def test_text_too_short_and_broken_weights_are_refused():
    with pytest.raises(DataError, match="two are needed"):
        sliding_window_nll(TorchScorer(Uniform()), [3], context=4, byte_count=1)

    def broken(input_ids, *, logits_to_keep=0):
        return torch.full((*input_ids.shape, VOCAB), math.nan)[:, -logits_to_keep:]

    with pytest.raises(DataError, match="not a number at token 1"):
        sliding_window_nll(TorchScorer(broken), [1, 2, 3], context=4, byte_count=3)


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_outside_the_window_is_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        sliding_window_nll(TorchScorer(Uniform()), [1, 2, 3], context=4, stride=stride, byte_count=3)


@pytest.mark.parametrize(
    ("form", "weights", "tolerance"), [("gguf", "f16", 0.02), ("openvino", "bf16", 0.05)]
)
def test_a_compiled_form_is_scored_by_its_engine(tiny_bundle, tmp_path, form, weights, tolerance):
    """Its prompt log-probabilities give the losses of the bundle's logits, but for the weights' rounding."""
    pytest.importorskip({"gguf": "llama_cpp", "openvino": "openvino"}[form])
    from platen.compress.compile import compile_bundle
    from platen.evaluate.subject import open_subject

    compile_bundle(tiny_bundle, tmp_path / "form", form, weights)
    ids = np.random.default_rng(4).integers(10, 320, 150)
    losses = []
    for path in (tiny_bundle, tmp_path / "form"):
        with open_subject(path) as subject:
            found = sliding_window_nll(subject.scorer, ids, context=64, byte_count=150, batch_size=4)
            losses.append(found.nll)
    np.testing.assert_allclose(losses[1], losses[0], atol=10 * tolerance)
    assert float(losses[1].mean()) == pytest.approx(float(losses[0].mean()), abs=tolerance)


def test_a_network_that_only_transformers_has_is_scored_by_its_engine(tmp_path, tiny_tokenizer):
    from transformers import BloomConfig, BloomForCausalLM

    from platen.evaluate.subject import open_subject

    torch.manual_seed(2)
    config = BloomConfig(
        vocab_size=tiny_tokenizer.vocab_size, hidden_size=32, n_layer=2, n_head=4, seq_length=64
    )
    model = BloomForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    ids = np.random.default_rng(4).integers(10, 320, 40)
    with torch.inference_mode():
        logits = model(torch.tensor(ids[None])).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none").numpy()
    with open_subject(tmp_path) as subject:
        found = subject.scorer.losses(ids[None], 39)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
