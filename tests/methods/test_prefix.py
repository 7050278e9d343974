"""Prefix tuning: both forms of its formula, its parameter counts, and what merging keeps."""

import pytest
import torch
import torch.nn.functional as F

import dapt
from dapt.errors import UsageError
from support.methods import randomize

TASK = dapt.Classification(5)


def head_wise(rows, num_heads):  # [..., T, C] -> [..., heads, T, D]
    return rows.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def attention_and_share(q, k, v, num_heads):
    """softmax(q · k) · v per head, and the sum of the exponentials."""
    q, k, v = (head_wise(rows, num_heads) for rows in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).exp()
    mass = weights.sum(-1, keepdim=True)
    return weights @ v / mass, mass


@pytest.mark.parametrize("hidden", [None, 7])
@torch.no_grad()
def test_is_a_mixture_of_two_attentions(small_backbone, hidden):
    """(1 - λ) · Attn(q, k, v) + λ · Attn(q, K, V), where λ is the prefix's share of the mass."""
    model = dapt.attach(small_backbone(), dapt.Prefix(prefixes=4, hidden=hidden), TASK).eval()
    randomize(model)
    stack = model.backbone.blocks
    wrapped = list(stack if hidden is None else stack.blocks)
    made = [block.prefix for block in wrapped] if hidden is None else stack.prefix()
    x, positions = torch.randn(2, 12, 48), torch.randn(2, 12, 48)
    for block, prefix in zip(wrapped, made, strict=True):
        frozen, h = block.frozen, block.frozen.attn.num_heads
        tokens = x + positions
        q, k, v = frozen.attn.qkv(frozen.norm1(tokens)).chunk(3, dim=-1)
        of_tokens, mass = attention_and_share(q, k, v, h)
        of_prefix, mass_of_prefix = attention_and_share(q, *prefix, h)
        share = mass_of_prefix / (mass + mass_of_prefix)
        mixed = (1 - share) * of_tokens + share * of_prefix
        wanted = tokens + frozen.attn.proj(mixed.transpose(1, 2).flatten(2))
        wanted = wanted + frozen.mlp(frozen.norm2(wanted))
        got = block(x, positions, None, prefix)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_the_small_network_makes_key_and_value_block_by_block(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Prefix(prefixes=4, hidden=7), TASK)
    prefix = model.backbone.blocks.prefix
    flat = F.linear(prefix.inner(prefix.embedding).tanh(), prefix.outer.weight, prefix.outer.bias)
    for block in range(3):
        for which in range(2):
            at = (2 * block + which) * 48
            torch.testing.assert_close(prefix()[block, which], flat[:, at : at + 48])


@pytest.mark.parametrize(
    "method, own", [(dapt.Prefix(), 92_160), (dapt.Prefix(hidden=384), 3_699_840)]
)
def test_counts(method, own):
    model = dapt.attach(dapt.create_backbone("point_mae"), method, dapt.Classification(15))
    assert model.count_parameters()[0] == own + 267_535


@torch.no_grad()
def test_merging_keeps_the_prefixes_that_were_made(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Prefix(prefixes=4, hidden=7), TASK).eval()
    randomize(model)
    points = torch.randn(2, 80, 3)
    wanted = model(points)
    torch.testing.assert_close(dapt.merge(model)(points), wanted)
    assert not any("outer" in entry for entry in model.state_dict())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.Prefix(prefixes=0), "prefixes must be at least 1, got 0"),
        (lambda build: dapt.Prefix(hidden=0), "hidden must be at least 1, got 0"),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.Prefix(hidden=3)), TASK),
            "reversible works on one stack of plain blocks, not on that of .* with PrefixStack",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
