"""The networks written out, against PyTorch's own on the same weights, and attention's hand-worked toy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from platen.models.classic import transformer
from platen.models.classic.attention import attention, causal_mask, multi_head
from platen.models.classic.mlp import MLP
from platen.models.classic.recurrent import Recurrent

PEERS = {"rnn": nn.RNN, "lstm": nn.LSTM}


def arrays(module):
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-6)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def shaken(module):
    """Weights away from their start, so that biases and norms count."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def test_attention_toy_by_hand():
    # Three inputs of four numbers, weights of three columns; row 1 with and without dividing by √3.
    x = np.array([[1, 0, 1, 0], [0, 2, 0, 2], [1, 1, 1, 1]])
    key = x @ np.array([[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 1, 0]])
    query = x @ np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1]])
    value = x @ np.array([[0, 2, 0], [0, 3, 0], [1, 0, 3], [1, 1, 0]])
    assert attention(query, key, value, scale=False)[0] == pytest.approx([1.9366, 6.6831, 1.5951], abs=5e-5)
    assert attention(query, key, value)[0] == pytest.approx([1.8639, 6.3194, 1.7042], abs=5e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_pytorchs(causal):
    q, k, v = normal(2, 3, 7, 4), normal(2, 3, 7, 4) + 1, normal(2, 3, 7, 4) * 2
    expected = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    close(attention(q.numpy(), k.numpy(), v.numpy(), causal_mask(7) if causal else None), expected)


def test_large_scores_do_not_overflow():
    x = np.eye(3) * 1e4
    assert np.isfinite(attention(x, x, x)).all()


def test_several_heads_are_pytorchs():
    module = shaken(nn.MultiheadAttention(24, 4, batch_first=True))
    query, source = normal(2, 5, 24), normal(2, 9, 24) + 0.3
    expected, _ = module(query, source, source)
    close(multi_head(arrays(module), 4, query.numpy(), source.numpy()), expected)


def test_positions_are_their_closed_form():
    table = transformer.sine_positions(50, 16)
    assert table.shape == (50, 16)
    assert table[7, 4] == pytest.approx(np.sin(7 / 10_000 ** (4 / 16)))
    assert table[7, 5] == pytest.approx(np.cos(7 / 10_000 ** (4 / 16)))
    # How alike two positions are depends on their distance only.
    assert table[3] @ table[8] == pytest.approx(table[30] @ table[35])


@pytest.mark.parametrize("causal", [False, True])
def test_the_encoder_and_the_decoder_alone_are_pytorchs(causal):
    layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True)
    module = shaken(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    x = normal(2, 6, 24)
    mask = nn.Transformer.generate_square_subsequent_mask(6) if causal else None
    ours = transformer.encoder(arrays(module), 4, x.numpy(), causal_mask(6) if causal else None)
    close(ours, module(x, mask=mask))


def test_encoder_and_decoder_together_are_pytorchs():
    module = shaken(nn.Transformer(24, 4, 2, 3, 40, batch_first=True))
    source, target = normal(2, 9, 24), normal(2, 6, 24) + 0.3
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    ours = transformer.encoder_decoder(arrays(module), 4, source.numpy(), target.numpy())
    close(ours, module(source, target, tgt_mask=mask))
    target[:, 4:] += 1
    again = transformer.encoder_decoder(arrays(module), 4, source.numpy(), target.numpy())
    np.testing.assert_array_equal(again[:, :4], ours[:, :4])


@pytest.mark.parametrize("cell", PEERS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_are_pytorchs(cell, layers, bidirectional):
    shape = {"bidirectional": bidirectional}
    theirs = PEERS[cell](5, 7, num_layers=layers, batch_first=True, **shape)
    ours = Recurrent(cell, 5, 7, layers=layers, **shape)
    ours.load_state_dict(theirs.state_dict())
    x = normal(3, 6, 5)
    state = normal(layers * ours.directions, 3, 7), normal(layers * ours.directions, 3, 7) - 1
    expected, end = theirs(x, state if cell == "lstm" else state[0])
    given, (hidden, memory) = ours(x, state=state)
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(hidden, end[0] if cell == "lstm" else end)
    if cell == "lstm":
        torch.testing.assert_close(memory, end[1])


@pytest.mark.parametrize("cell", PEERS)
def test_rows_of_unlike_length_are_pytorchs_packed_ones(cell):
    theirs = PEERS[cell](5, 7, num_layers=2, batch_first=True, bidirectional=True)
    ours = Recurrent(cell, 5, 7, layers=2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x, lengths = normal(3, 6, 5), torch.tensor([2, 6, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, end = theirs(packed)
    given, (hidden, _) = ours(x, lengths)
    torch.testing.assert_close(given, nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)[0])
    torch.testing.assert_close(hidden, end[0] if cell == "lstm" else end)


@pytest.mark.parametrize("cell", PEERS)
def test_gradients_through_time_are_pytorchs(cell):
    theirs, ours = PEERS[cell](5, 7, batch_first=True), Recurrent(cell, 5, 7)
    ours.load_state_dict(theirs.state_dict())
    x = normal(3, 6, 5)
    for module in (theirs, ours):
        module(x)[0].pow(2).sum().backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, getattr(theirs, name).grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden_layers", [0, 1, 5])
def test_mlp_shapes_and_softmax(hidden_layers):
    mlp = MLP(4, hidden=8, outputs=3, hidden_layers=hidden_layers, softmax=True)
    given = mlp(normal(6, 4))
    assert given.shape == (6, 3)
    torch.testing.assert_close(given.sum(dim=-1), torch.ones(6))
    widths = [4] + [8] * hidden_layers + [3]
    by_hand = sum(a * b + b for a, b in pairwise(widths))
    assert sum(p.numel() for p in mlp.parameters()) == by_hand


def test_a_hidden_layer_learns_exclusive_or_and_a_line_does_not():
    x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    y = torch.tensor([0, 1, 1, 0])
    right = {}
    for hidden_layers in (0, 1):
        torch.manual_seed(1)
        mlp = MLP(2, hidden=8, outputs=2, hidden_layers=hidden_layers, activation="tanh")
        optimizer = torch.optim.Adam(mlp.parameters(), lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(mlp(x), y).backward()
            optimizer.step()
        right[hidden_layers] = int((mlp(x).argmax(dim=-1) == y).sum())
    assert right[1] == 4
    assert right[0] < 4
