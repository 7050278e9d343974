"""Reversible fine-tuning: an exact inverse, the gradients of plain autograd, constant memory."""

import copy

import pytest
import torch

import dapt
from dapt.errors import UsageError
from dapt.methods import reversible
from dapt.methods.streams import Streams, off_grid, on_grid
from dapt.runs.memory import CountSaved
from support.methods import randomize, train_steps

TASK = dapt.Classification(5, head="linear", dropout=0.0)
LAMBDA_BETA = {1: (0.1, 1.0), 2: (1.0, 0.1), 3: (0.1, 0.1)}
METHODS = {
    f"{name}, variant {variant}": (method, variant)
    for variant in LAMBDA_BETA
    for name, method in (
        ("alone", dapt.Reversible(variant=variant)),
        ("dapt", dapt.Reversible.on(dapt.Dapt(rank=5), variant=variant)),
        ("adapter", dapt.Reversible.on(dapt.Adapter(rank=5), variant=variant)),
    )
}
each = pytest.mark.parametrize("method", METHODS)


def model_of(backbone, method):
    model = dapt.attach(backbone, METHODS[method][0], TASK)
    randomize(model)
    return model


def insert(stream, prompt):
    return torch.cat([stream[:, :1], prompt, stream[:, 1:]], 1)


def plain(stack, x, positions, variant):
    """The published equations in floats and under plain autograd; the tokens after each block."""
    scale_one, scale_two = LAMBDA_BETA[variant]
    x1 = x2 = x
    after = []
    for block in stack.blocks:
        T, prompt = x1.shape[1], None
        f = block.f(x2, positions)
        if f.shape[1] > T:
            f, prompt = torch.cat([f[:, :1], f[:, 2:]], 1), f[:, 1:2]
        y1 = scale_one * x1 + f
        g = block.g(y1, positions)
        if g.shape[1] > T:
            g, prompt = torch.cat([g[:, :1], g[:, 2:]], 1), g[:, 1:2]
        y2 = scale_two * x2 + g
        if prompt is not None:
            y1, y2 = insert(y1, prompt), insert(y2, prompt)
        x1, x2 = (y1, y2) if variant == 3 else (y2, y1)
        after.append((x1 + x2) / 2)
    return after


@each
# some windows are smaller than the stack of three blocks
@pytest.mark.parametrize("window", [12, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradients_are_those_of_plain_autograd(small_backbone, monkeypatch, method, window, dtype):
    """Covers dropout and DropPath, whose random state must be restored, and intermediate levels.

    float64 differs by the grid of 2**-32; float32 by the rounding of a step."""
    monkeypatch.setattr(reversible, "WINDOW", window)
    model = model_of(small_backbone(drop_path=0.3), method).to(dtype).train()
    stack = model.backbone.blocks
    x = torch.randn(6, 12, 48, dtype=dtype, requires_grad=True)
    positions = torch.randn(6, 12, 48, dtype=dtype, requires_grad=True)
    inputs = [x, positions, *(w for w in stack.parameters() if w.requires_grad)]

    def gradients(last, level):
        loss = last.square().sum() + level.sin().sum()
        return torch.autograd.grad(loss, inputs)

    torch.manual_seed(0)
    last, (level,) = stack(x, positions, levels=(1,))
    got = gradients(last, level)
    torch.manual_seed(0)
    _, wanted_level, wanted_last = plain(stack, x, positions, METHODS[method][1])
    wanted = gradients(wanted_last, wanted_level)

    close = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(last, wanted_last, **close)
    for one, other in zip(got, wanted, strict=True):
        scale = other.abs().max().clamp(min=1)
        torch.testing.assert_close(one / scale, other / scale, **close)


def there_and_back(stack, x, positions):
    """(streams before each block, the same recovered from the output), last block first."""
    before, traces = [Streams(on_grid(x), on_grid(x))], []
    for streams, trace in stack.steps(x, positions, [None] * len(stack)):
        before.append(streams)
        traces.append(trace)
    found = before.pop()
    zeros = torch.zeros(found.one.shape, dtype=x.dtype)
    for block, trace, wanted in zip(*map(reversed, (stack.blocks, traces, before)), strict=True):
        found, grad, *_ = block.step_back(found, Streams(zeros, zeros), positions, trace)
        zeros = torch.zeros_like(grad.one)
        yield wanted, found


@each
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@torch.no_grad()
def test_every_blocks_input_comes_back_exactly(small_backbone, method, autocast):
    model = model_of(small_backbone(depth=12, drop_path=0.3), method).train()
    x, positions = torch.randn(4, 12, 48), torch.randn(4, 12, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pairs = list(there_and_back(model.backbone.blocks, x, positions))
    for i, (wanted, found) in enumerate(pairs):
        error = max(float((a - b).norm() / a.norm()) for a, b in zip(wanted, found, strict=True))
        print(f"block {11 - i}: relative error {error:.1e}")
        assert error == 0


def inverted_in_floats(stack, x, positions, variant):
    """The relative error of the inverse without remainders, for each block."""
    scale_one, scale_two = LAMBDA_BETA[variant]
    streams, before = (x, x), []
    for block in stack.blocks:
        before.append(streams)
        y1 = scale_one * streams[0] + block.f(streams[1], positions)
        y2 = scale_two * streams[1] + block.g(y1, positions)
        streams = (y1, y2) if variant == 3 else (y2, y1)
    errors = []
    for block, wanted in zip(reversed(stack.blocks), reversed(before), strict=True):
        y1, y2 = streams if variant == 3 else streams[::-1]
        x2 = (y2 - block.g(y1, positions)) / scale_two
        streams = ((y1 - block.f(x2, positions)) / scale_one, x2)
        errors.append(
            max(float((a - b).norm() / a.norm()) for a, b in zip(streams, wanted, strict=True))
        )
    return errors


@torch.no_grad()
def test_why_the_remainders_are_kept(small_backbone):
    """In floats, the inverse of the same equations loses the streams within a few blocks."""
    for variant in LAMBDA_BETA:
        model = dapt.attach(small_backbone(depth=12), dapt.Reversible(variant=variant), TASK).eval()
        x, positions = torch.randn(4, 12, 48), torch.randn(4, 12, 48)
        errors = inverted_in_floats(model.backbone.blocks, x, positions, variant)
        print(f"variant {variant}:", *(f"{error:.0e}" for error in errors))
        assert errors[0] < 1e-4 and not errors[-1] < 1e-2  # it may have become NaN


def activation_bytes(backbone, method, clouds=2, num_points=1024):
    model = dapt.attach(backbone, method, dapt.Classification(15)).train()
    count = CountSaved(model)
    with count:
        model(torch.randn(clouds, num_points, 3))
    dapt.detach(model)
    return count.bytes


@pytest.mark.parametrize(
    "method",
    [dapt.Reversible(variant=variant) for variant in (1, 2, 3)]
    + [dapt.Reversible.on(dapt.Dapt(rank=8))],
    ids=["1", "2", "3", "dapt"],
)
def test_memory_does_not_grow_with_depth(small_backbone, method):
    sizes = {"num_groups": 64, "group_size": 8}
    shallow = activation_bytes(small_backbone(depth=12, **sizes), method, num_points=128)
    deep = activation_bytes(small_backbone(depth=24, **sizes), method, num_points=128)
    # DAPT adds one token per block, so its streams are longer at the end
    assert deep <= (1.1 if method.name == "reversible" else 1.3) * shallow


def test_share_of_full_fine_tuning_at_the_published_size():
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    full = activation_bytes(backbone, dapt.Full())
    for method in (dapt.Reversible(), dapt.Reversible.on(dapt.Dapt())):
        share = activation_bytes(backbone, method) / full
        print(f"{method.name}: {share:.1%} of full fine-tuning's activations")
        assert share <= 0.35


def test_training_lowers_the_loss_and_levels_are_given(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Reversible(), dapt.Classification(5))
    before = copy.deepcopy(model)
    train_steps(model, steps=3)
    assert not torch.equal(
        model.backbone.blocks.blocks[0].beside.up.weight,
        before.backbone.blocks.blocks[0].beside.up.weight,
    )
    levels = model.eval().backbone(torch.randn(2, 80, 3), levels=(0, 2)).levels
    assert len(levels) == 2 and levels[0].shape == (2, 11, 48)


def test_the_grid_holds_what_float32_holds():
    values = torch.randn(1000, dtype=torch.float64) * 100
    assert (off_grid(on_grid(values), torch.float64) - values).abs().max() <= 2**-33
    large = torch.tensor([1e6 + 1 / 16, -2e6], dtype=torch.float32)
    assert torch.equal(off_grid(on_grid(large), torch.float32), large)


def test_what_it_cannot_stand_on(small_backbone):
    with pytest.raises(UsageError, match="one stack of plain blocks"):
        dapt.attach(small_backbone("point_m2ae"), dapt.Reversible(), TASK)
    with pytest.raises(UsageError, match="one stack of plain blocks"):
        dapt.attach(small_backbone(), dapt.Reversible.on(dapt.PointPeft()), TASK)
    with pytest.raises(UsageError, match="PromptedBlock has no halves"):
        dapt.attach(small_backbone(), dapt.Reversible.on(dapt.Vpt(), variant=3), TASK)
    dapt.attach(small_backbone(), dapt.Reversible.on(dapt.Vpt(), variant=2), TASK)
    with pytest.raises(UsageError, match="variant must be 1, 2 or 3, got 4"):
        dapt.Reversible(variant=4)
    with pytest.raises(UsageError, match="reversible_rank must be from 1 to 256"):
        dapt.Reversible(reversible_rank=0)
    with pytest.raises(UsageError, match="method 'linear' cannot be combined"):
        dapt.methods.method_class("linear:dapt")


def test_names():
    mixed = dapt.Reversible.on(dapt.Dapt(rank=7), variant=2)
    assert mixed.name == "reversible:dapt" and mixed.rank == 7 and isinstance(mixed, dapt.Dapt)
    kind = dapt.methods.method_class("reversible:dapt")
    assert kind is type(mixed) and kind(rank=7, variant=2) == mixed
