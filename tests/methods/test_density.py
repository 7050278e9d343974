"""The density loss compared with its formula, its meters, and the sparse product."""

import json

import pytest
import torch
from torch import nn

import dapt
from dapt.errors import UsageError
from dapt.methods import density
from support.methods import randomize
from support.runs import lines

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = dapt.Classification(5, head="linear", dropout=0.0)
METHOD = dapt.Density.on(dapt.Dapt(rank=5, dropout=0.0, drop_path=0.0), density_epsilon=1e-3)


def activations_of(model, points):
    """The activations in the MLPs of all blocks, and the logits."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda _, __, out: seen.append(out))
        for module in model.backbone.modules()
        if isinstance(module, density.MeteredActivation)
    ]
    logits = model(points)
    for hook in hooks:
        hook.remove()
    return seen, logits


def formula(activations, weight, epsilon):
    """The published loss: mean over tokens and units, then over clouds and blocks."""
    shares = [a.double() ** 2 / (a.double() ** 2 + epsilon) for a in activations]
    return weight * torch.stack([share.mean((1, 2)).mean() for share in shares]).mean()


@pytest.mark.parametrize("name", ["point_mae", "point_m2ae"])
def test_loss_and_gradients_are_the_formulas(small_backbone, name):
    model = dapt.attach(small_backbone(name), METHOD, TASK)
    randomize(model.train())
    points, weights = torch.randn(3, 80, 3), [weight for _, weight in model.own_parameters()]
    activations, _ = activations_of(model, points)
    wanted = formula(activations, 1.0, 1e-3)
    loss = model.extra_loss()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    got = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    twin = torch.autograd.grad(wanted, weights, allow_unused=True)
    reached = 0
    for one, other in zip(got, twin, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            reached += 1
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)  # float32
    assert reached > len(weights) / 2
    with pytest.raises(UsageError, match="run a forward pass with gradients"):
        model.extra_loss()


def test_the_slope_in_float64():
    a = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: density._SoftDensity.apply(a, 0.1), a)


@torch.no_grad()
def test_meters_count_what_is_active(small_backbone):
    model = dapt.attach(small_backbone(), METHOD, TASK).eval()
    batches = [torch.randn(3, 80, 3), torch.randn(2, 80, 3)]
    seen = [activations_of(model, points)[0] for points in batches]
    measured = model.meters()
    for threshold in (0.0, 1e-3, 1e-2):
        name = f"density_above_{threshold:g}"
        above = [torch.cat([s[b].flatten() for s in seen]).abs() > threshold for b in range(3)]
        assert measured[name] == pytest.approx(torch.cat(above).float().mean().item())
        for block, active in enumerate(above):
            wanted = active.float().mean().item()
            assert measured[f"{name}_block_{block}"] == pytest.approx(wanted)
    with pytest.raises(UsageError, match="run an evaluation"):
        model.meters()


def test_relu_gives_exact_zeros_and_goes_with_the_method(small_backbone):
    backbone = small_backbone()
    method = dapt.Density.on(dapt.Linear(), relu=True)
    model = dapt.attach(backbone, method, TASK).eval()
    with torch.no_grad():
        model(torch.randn(3, 80, 3))
    measured = method.meters(model.backbone)
    assert 0.2 < measured["density_above_0"] < 0.8
    dapt.detach(model)
    assert isinstance(backbone.blocks[0].mlp.act, nn.GELU)
    assert isinstance(backbone.blocks[0].mlp.fc2, nn.Linear)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("below", [dapt.Dapt(rank=5), dapt.Full(), dapt.Linear()], ids=str)
@torch.no_grad()
def test_sparse_product_gives_the_same(small_backbone, monkeypatch, below):
    backbone = small_backbone()
    for block in backbone.blocks:  # almost every unit is zero
        block.mlp.fc1.bias.fill_(-2.5)
    model = dapt.attach(backbone, dapt.Density.on(below, relu=True), TASK).eval()
    points, used = torch.randn(3, 80, 3), []
    sparse = density.SparseInput._sparse

    def counted(self, a):
        used.append(1)
        return sparse(self, a)

    monkeypatch.setattr(density.SparseInput, "_sparse", counted)
    monkeypatch.setattr(density, "SPARSE_FROM", 0)
    got = model(points)
    assert 0 < model.meters()["density_above_0"] < density.SPARSE_BELOW
    assert used
    monkeypatch.setattr(density, "SPARSE_BELOW", 0.0)
    used.clear()
    torch.testing.assert_close(got, model(points), rtol=1e-4, atol=1e-4)
    assert not used


def test_it_lowers_the_density_in_training(run):
    def density_after(weight):
        method = {"name": "density:full", "density_weight": weight, "relu": True}
        method |= {"density_epsilon": 1e-2}
        folder, code = run(f"weight_{weight}", "--epochs", "10", method=method)
        assert code == 0
        result = json.loads((folder / "result.json").read_text())
        assert "validation_density_above_0.01_block_1" in lines(folder)[-1]
        return result["density_above_0"]

    assert density_after(10.0) < 0.7 * density_after(0.0)


def test_what_it_stands_on(small_backbone):
    with pytest.raises(UsageError, match="density needs a method underneath: use density:dapt"):
        dapt.Density()
    with pytest.raises(UsageError, match="which reversible does not keep"):
        dapt.attach(small_backbone(), dapt.Density.on(dapt.Reversible()), TASK)
    for below in (dapt.PointPeft(prompts=3), dapt.Vpt(), dapt.Adapter()):
        dapt.attach(small_backbone(), dapt.Density.on(below), TASK)
    with pytest.raises(UsageError, match="density_weight must be at least 0"):
        dapt.Density.on(dapt.Full(), density_weight=-1.0)
    with pytest.raises(UsageError, match="density_epsilon must be above 0"):
        dapt.Density.on(dapt.Full(), density_epsilon=0.0)
