"""Every model in every float dtype: cast to it and under autocast, forward and one step."""

import copy

import pytest
import torch

import dapt
from support.fixtures import SMALL
from support.methods import FAMILY, LABELS, TASK, attached, randomize

pytestmark = pytest.mark.usefixtures("one_thread")

# Tolerance of logits relative to float64: about 60 roundings. Own weights are drawn large, so a
# network of three blocks amplifies the rounding of the first.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 60 * 2**-8, torch.float16: 60 * 2**-11}
CASTS = [(dtype, False) for dtype in CLOSE]
AUTOCASTS = [(torch.bfloat16, True), (torch.float16, True)]


def logits_and_step(model, points, autocast=None):
    """The logits in eval mode, and the gradients of one step in training mode."""
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        with torch.no_grad():
            logits = model.eval()(points)
        model.train()
        loss = TASK.loss(model(points), {"labels": LABELS})
    assert loss.isfinite()
    loss.backward()
    before = [weight.detach().clone() for _, weight in model.own_parameters()]
    torch.optim.SGD([weight for _, weight in model.own_parameters()], 0.1).step()
    for (entry, weight), was in zip(model.own_parameters(), before, strict=True):
        assert weight.isfinite().all() and weight.dtype == was.dtype, entry
    same = sum(map(torch.equal, (w for _, w in model.own_parameters()), before))
    assert same < len(before) / 2
    return logits


def check(model, modes):
    points = (torch.randn(4, 80, 3) / 3).bfloat16().float()  # the same numbers in every dtype
    randomize(model)
    exact = logits_and_step(copy.deepcopy(model).double(), points.double())
    assert exact.dtype == torch.float64
    for dtype, autocast in modes:
        if autocast:
            logits = logits_and_step(copy.deepcopy(model), points, dtype)
        else:
            logits = logits_and_step(copy.deepcopy(model).to(dtype), points.to(dtype))
            assert logits.dtype == dtype
        error = (logits.double() - exact).norm() / exact.norm()
        assert error < CLOSE[dtype], (dtype, autocast)


@pytest.mark.parametrize("method", FAMILY)
def test_every_method(small_backbone, method):
    check(attached(small_backbone(), method), CASTS + AUTOCASTS)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "point_mae"])
@pytest.mark.parametrize("method", ["dapt", "full", "linear"])
def test_every_backbone(small_backbone, name, method):
    check(attached(small_backbone(name), method), CASTS + AUTOCASTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_alone_of_points_in_any_type(small_backbone, name, dtype):
    """The network computes in the dtype of its weights, whatever that of the points."""
    backbone = small_backbone(name).eval().to(dtype)
    points = torch.randn(2, 80, 3)
    for given in (points, points.double(), points.half()):
        features = backbone(given)
        assert features.patches.dtype == dtype and features.patches.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("task", ["parts", "rooms"])
def test_points_are_labeled_in_every_type(small_backbone, task, dtype):
    parts = task == "parts"
    of = dapt.PartSegmentation(2, 5) if parts else dapt.SemanticSegmentation(5)
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), of).eval()
    points = torch.randn(2, 80, 3)
    given = (torch.tensor([0, 1]),) if parts else ()
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(points.double(), *given)
        logits = model.to(dtype)(points.to(dtype), *given)
    assert logits.dtype == dtype
    close = CLOSE.get(dtype, 1e-12)
    assert (logits.double() - exact).norm() / exact.norm() < close
