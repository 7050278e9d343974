"""Wrong flags give exit code 2 and a sentence that names the flag; never a traceback.

tests/attack/flags.py tries all flags with nonsense.
"""

import pytest

from attack.flags import FlagsAttack
from dapt import cli
from dapt.errors import said_of_the_machine

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    return FlagsAttack(tmp_path_factory.mktemp("flags"))


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--task.label_smoothing -1", "label_smoothing must be at least 0 and below 1"),
        ("--task.label_smoothing 1.5", "label_smoothing must be at least 0 and below 1"),
        ("--backbone.drop_path 2", "drop_path must be at least 0 and below 1, got 2"),
        ("--method.drop_path 2", "drop_path must be"),
        ("--task.dropout 7", "dropout must be at least 0 and below 1, got 7"),
        ("--min_learning_rate 5", "min_learning_rate must be at most the learning_rate"),
        ("--learning_rate .inf", "learning_rate must be above 0 and finite"),
        ("--batch_size 1", "batch_size must be at least 2"),
        ("--seed 18446744073709551616", "seed must be at most"),
        ("--checkpoint_seconds .nan", "checkpoint_seconds must be at least 0"),
        ("--num_points 0", "num_points must be at least 1"),
        ("--backbone.depth -1", "depth must be at least 1"),
        ("--backbone.dim 99999999999999999999", "dim must be at most"),
        ("--method.rank 99999999999999999999", "rank must be"),
        ("--backbone.encoder_widths [1]", "encoder_widths must be at least two numbers"),
        ("--out=", "--out has an empty value"),
        ("--epochs [[[", "epochs"),
        ("--out /dev/null/x", "cannot write /dev/null/x"),
    ],
)
def test_what_was_taken_or_ended_in_a_traceback(attack, flags, words):
    begun = ["train", "--config", str(attack.tiny), "--data.train", str(attack.folder / "a.npz")]
    outcome = attack.call([*begun, "--out", str(attack.folder / "out"), *flags.split(" ")])
    assert outcome.code == (1 if "cannot write" in words else 2) and not outcome.trouble
    assert words in outcome.said.splitlines()[-1]


def test_an_empty_folder_is_not_the_current_one(attack, monkeypatch, tmp_path, capsys):
    """Holds for every command."""
    monkeypatch.chdir(tmp_path)
    run, cloud = str(attack.folder / "run"), str(attack.cloud)
    train = ["train", "--config", str(attack.tiny), "--data.train", str(attack.folder / "a.npz")]
    for words in (
        train,
        ["evaluate", run],
        ["predict", run, cloud],
        ["view", cloud],
        ["report", run, "--files_only"],
        ["compare", "--methods", "linear"],
    ):
        for value in ("", " "):
            assert cli.main([*words, "--out", value]) == 2
            assert "empty value" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "predict", "view", "report"])
def test_two_dashes_are_no_value(attack, command):
    outcome = attack.call([command, str(attack.folder / "run"), str(attack.cloud), "--out=--"])
    assert outcome.code == 2 and "--out has no value" in outcome.said


def test_control_characters_and_long_sentences_do_not_reach_the_terminal(capsys):
    assert cli.main(["train", "--method", "\x1b[31mred" + "x" * 5000]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\\x1b[31mred" in said and len(said) < 1100


def test_one_cloud_is_a_batch_where_no_norm_compares_clouds(attack):
    begun = ["train", "--config", str(attack.tiny), "--data.train", str(attack.folder / "a.npz")]
    begun += ["--out", str(attack.folder / "out"), "--batch_size", "1", "--task.head", "linear"]
    assert attack.call(begun).code == 0


def test_only_the_machine_is_blamed_for_what_is_its_own():
    assert said_of_the_machine(RuntimeError("shape '[3]' is invalid for input of size 4")) is None
    assert said_of_the_machine(ValueError("x")) is None
