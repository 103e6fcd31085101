"""The rungs: their sizes worked out by hand, causality, and that each is the one below and one part more."""

import json
import math

import pytest
import torch

from platen.core.errors import BundleError
from platen.models import ladder
from platen.models.config import ModelConfig
from platen.models.ladder import RUNGS

V, C, M, HEADS, KV = 50, 24, 40, 4, 2
HEAD = C // HEADS


def rung(architecture, *, vocab_size=V, **changes):
    torch.manual_seed(3)
    config = {
        "hidden_size": C,
        "intermediate_size": M,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "max_position_embeddings": 32,
        "tie_word_embeddings": False,
    } | changes
    return ladder.build(ModelConfig(architecture=architecture, **config), vocab_size).eval()


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_the_feedforward_baseline_has_the_published_count():
    # V·d embedding, d·d + d layer, d·V + V output at V = 32,001 and d = 288.
    with torch.device("meta"):
        model = rung("feedforward", vocab_size=32_001, hidden_size=288, num_attention_heads=6)
    assert size(model) == 18_547_809


def test_each_rung_adds_exactly_its_part():
    counts = {name: size(rung(name)) for name in RUNGS}
    attention = 2 * C * C + 2 * C * KV * HEAD
    assert counts["feedforward"] == V * C + (C * C + C) + (C * V + V)
    assert counts["rmsnorm"] - counts["feedforward"] == C
    assert counts["rope_attention"] - counts["rmsnorm"] == attention + C
    assert counts["swiglu"] - counts["rope_attention"] == 3 * C * M - (C * C + C)
    assert size(rung("swiglu", tie_word_embeddings=True)) == counts["swiglu"] - V * C


def test_the_feedforward_baseline_is_its_formula():
    model = rung("feedforward")
    ids = torch.tensor([[4, 9, 4]])
    w = model.state_dict()
    hidden = w["embed_tokens.weight"][ids] @ w["feed_forward.linear.weight"].T + w["feed_forward.linear.bias"]
    expected = hidden.clamp(min=0) @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(model(ids), expected)
    torch.testing.assert_close(model(ids)[0, 0], model(ids)[0, 2])  # one token is all it sees


def test_rmsnorm_makes_the_scale_of_the_embedding_irrelevant():
    ids = torch.tensor([[1, 2, 3]])
    for name, same in (("feedforward", False), ("rmsnorm", True)):
        model = rung(name, rms_norm_eps=1e-12)
        with torch.no_grad():
            before = model(ids)
            model.embed_tokens.weight *= 7
            assert torch.allclose(model(ids), before, atol=1e-6) is same


@torch.no_grad()
def strengthen(model):
    """Weights large enough that what a token does to others shows."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.5)
    return model


@pytest.mark.parametrize("name", RUNGS)
def test_no_token_sees_those_after_it(name):
    model = strengthen(rung(name))
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[0, 6] = 40
    before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6], before[:, 6])
    sees_the_past = not torch.allclose(after[:, 7:], before[:, 7:])
    assert sees_the_past is (name in ("rope_attention", "swiglu"))


def test_attention_knows_the_order_of_the_tokens_it_sees():
    model = strengthen(rung("rope_attention"))
    one, other = model(torch.tensor([[1, 2, 9]]))[0, -1], model(torch.tensor([[2, 1, 9]]))[0, -1]
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", RUNGS)
def test_logits_to_keep_gives_the_last_ones(name):
    model, ids = rung(name), torch.arange(8).view(2, 4)
    torch.testing.assert_close(model(ids, logits_to_keep=2), model(ids)[:, -2:])
    with pytest.raises(ValueError, match="no cache"):
        model(ids, attention_mask=torch.ones(2, 4))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", RUNGS)
def test_untrained_it_guesses_blindly(name, tied):
    ids = torch.arange(V).roll(5)[None, :32]
    logits = rung(name, tie_word_embeddings=tied)(ids)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert loss.item() == pytest.approx(math.log(V), rel=0.05)


@pytest.mark.parametrize("name", RUNGS)
def test_every_parameter_learns(name):
    model = rung(name)
    ids = torch.randint(0, V, (2, 8))
    torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", RUNGS)
def test_saved_and_opened_it_gives_the_same(name, tied, tmp_path, tiny_tokenizer):
    model = rung(name, vocab_size=tiny_tokenizer.vocab_size, tie_word_embeddings=tied)
    ladder.save(tmp_path / "model", model, tiny_tokenizer)
    assert ladder.is_ladder(tmp_path / "model")
    opened = ladder.open(tmp_path / "model")
    ids = torch.arange(12)[None]
    torch.testing.assert_close(opened.model(ids), model(ids), rtol=0, atol=0)
    assert opened.tokenizer.sha256 == tiny_tokenizer.sha256
    assert size(opened.model) == size(model)


def test_a_damaged_folder_is_refused(tmp_path, tiny_tokenizer):
    with pytest.raises(BundleError, match="no ladder model"):
        ladder.open(tmp_path)
    assert not ladder.is_ladder(tmp_path)
    ladder.save(tmp_path, rung("swiglu", vocab_size=320), tiny_tokenizer)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BundleError, match="no ladder model"):
        ladder.open(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rung": "ninth"}))
    with pytest.raises(BundleError):
        ladder.open(tmp_path)
