"""Learning rates of the weights, and their schedule."""

import math

import pytest
import torch

import dapt
from dapt.runs.options import TrainOptions
from dapt.training.optimization import RunningMean, adamw, batch_statistics, set_schedule

EPOCHS, STEPS = 40, 50  # STEPS per epoch
CPU = torch.device("cpu")


def options(**fields):
    return TrainOptions(out="unused", **{"epochs": EPOCHS, "learning_rate": 2e-3} | fields)


def named(*names):
    return [(name, torch.nn.Parameter(torch.zeros(2, 2))) for name in names]


def test_one_cycle_is_that_of_torch():
    settings = options(schedule="one_cycle", warmup_epochs=2, min_learning_rate=2e-7)
    optimizer = adamw(named("a"), settings, CPU)
    other = torch.optim.AdamW(named("a")[0][1:], lr=1.0)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        other, 2e-3, EPOCHS * STEPS, pct_start=0.05, div_factor=10, final_div_factor=1000
    )
    for step in range(EPOCHS * STEPS):
        set_schedule(optimizer, step / STEPS, settings)
        ours, theirs = optimizer.param_groups[0], other.param_groups[0]
        # torch's schedule is a step ahead, so they differ by at most a step at the steepest rise
        steepest = math.pi / 2 / (2 * STEPS)
        assert ours["lr"] == pytest.approx(theirs["lr"], abs=2e-3 * steepest)
        assert ours["betas"][0] == pytest.approx(theirs["betas"][0], abs=0.1 * steepest)
        other.step(), peer.step()


def test_rates_are_factors_for_the_weights_whose_names_have_the_word():
    settings = options(rates={"cls": 10, "block": 0.1}, warmup_epochs=0)
    optimizer = adamw(named("blocks.0.weight", "blocks.0.bias", "cls_block", "head"), settings, CPU)
    assert [(g["rate"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [
        (0.1, 0.05, 1),
        (10, 0.05, 1),
        (1.0, 0.05, 1),
        (0.1, 0.0, 1),
    ]
    set_schedule(optimizer, 0.0, settings)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([2e-4, 2e-2, 2e-3, 2e-4])


@pytest.mark.parametrize("rates", [{"a": -1.0}, {"a": math.inf}, {"a": math.nan}])
def test_rates_without_sense_are_refused(rates):
    with pytest.raises(dapt.DaptError, match="rates: the factor of .a. must be at least 0"):
        options(rates=rates)


def test_a_word_that_no_name_has_is_refused():
    with pytest.raises(dapt.DaptError, match="no trained weight has a name with 'clz'"):
        adamw(named("a.b.weight"), options(rates={"clz": 10}), CPU)


def test_the_running_mean_takes_the_statistics_along_that_go_with_its_weights():
    """Averaged weights with current statistics would be a different network."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    norm, decay = network[1], 0.75
    mean = RunningMean([*network.parameters(), *batch_statistics(network)], decay)
    expected = [norm.running_mean.clone(), norm.running_var.clone()]
    for _ in range(3):
        network(5 * torch.randn(8, 3) + 2)
        mean.update()
        for held, now in zip(expected, (norm.running_mean, norm.running_var), strict=True):
            held.lerp_(now, 1 - decay)
    present = norm.running_var.clone()
    mean.swap()
    torch.testing.assert_close([norm.running_mean, norm.running_var], expected, rtol=0, atol=0)
    mean.swap()
    assert torch.equal(norm.running_var, present)
