"""Nothing non-finite counts as a success: no best epoch, no adapter, no exit code 0."""

import json

import pytest
import torch

import dapt
from dapt.errors import DaptError
from dapt.training.loop import Trainer
from dapt.training.pretraining import Pretraining
from support.runs import assert_same_run, lines

pytestmark = pytest.mark.usefixtures("one_thread")


def spoil_after(monkeypatch, step):
    """Makes the update of this step write a NaN into the weights; its loss is still finite."""
    whole = Trainer._step

    def spoiled(self, at, batch):
        whole(self, at, batch)
        if at == step:
            self.weights[0].data.flatten()[0] = torch.nan

    monkeypatch.setattr(Trainer, "_step", spoiled)


@pytest.mark.parametrize("command", ["train", "pretrain"])
@pytest.mark.parametrize("step", [2, 8])  # the last step of the first and of the last epoch
def test_a_last_step_that_diverges_is_no_success(run, monkeypatch, capsys, command, step):
    fields = {"command": command, "num_points": None}
    with monkeypatch.context() as patch:
        spoil_after(patch, step)
        folder, code = run("x", **fields)
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and f"not finite in epoch {step // 3 + 1}" in said
    assert not (folder / "result.json").exists()
    assert len(lines(folder)) == step // 3 if step > 2 else not (folder / "metrics.jsonl").exists()
    whole, _ = run("whole", **fields)
    assert run("x", "--resume", **fields)[1] == 0
    if command == "train":
        assert_same_run(whole, folder)


def test_within_an_epoch_no_checkpoint_of_it_is_left(run, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        spoil_after(patch, 4)
        _, code = run("x", checkpoint_seconds=0.0)
    assert code == 1 and "not finite" in capsys.readouterr().err
    assert run("x", "--resume", checkpoint_seconds=0.0)[1] == 0


def test_a_diverging_learning_rate(run, capsys):
    folder, code = run("x", learning_rate=1e38, warmup_epochs=0, clip_norm=0)
    assert code == 1 and "smaller learning_rate" in capsys.readouterr().err
    assert not (folder / "result.json").exists()


def test_a_validation_loss_of_nan_is_never_best(run, monkeypatch, capsys):
    losses = iter([0.5, float("nan"), 0.1])
    measure = lambda *_: {"validation_loss": next(losses)}  # noqa: E731
    monkeypatch.setattr(Pretraining, "evaluate", measure)
    folder, code = run("x", command="pretrain", num_points=None)
    assert code == 1 and "the validation loss is not finite" in capsys.readouterr().err
    assert len(lines(folder)) == 1 and not (folder / "result.json").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_neither_written_nor_read(
    small_backbone, tmp_path, value, monkeypatch
):
    model = dapt.attach(small_backbone(), dapt.Linear(), dapt.Classification(3))
    name, weight = model.own_parameters()[0]
    weight.data.flatten()[-1] = value
    with pytest.raises(DaptError, match="not finite"):
        model.save_adapter(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with monkeypatch.context() as patch:
        patch.setattr("dapt.adapters.adapter_files.check_finite", lambda *_: None)
        model.save_adapter(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    with pytest.raises(DaptError, match=f"not finite: {name.split('.')[-1]}|not finite: .*{name}"):
        dapt.load_adapter(tmp_path / "a", small_backbone())
