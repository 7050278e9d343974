"""Configs of the published experiments: every method of every file builds the published model."""

from pathlib import Path

import pytest
import torch

import dapt
from dapt.errors import UsageError
from dapt.models import create_backbone
from dapt.runs.settings import ADAPTATION, PRETRAINING, parse

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = ("point_gst", "stag", "ppt", "point_lora", "ga_prompt", "idpt")
DEAD = (
    27_660  # published parameters of GAPrompt that never get a gradient, and that we do not create
)

TRAINED = {
    ("scanobjectnn_hardest", "dapt"): 1_087_771,
    ("scanobjectnn_bg", "dapt"): 1_087_771,
    ("scanobjectnn_only", "dapt"): 989_467,
    ("modelnet40", "dapt"): 1_069_716,
    ("scanobjectnn_hardest", "stag"): 428_431,
    ("scanobjectnn_hardest", "ppt"): 1_042_191,
    ("scanobjectnn_hardest", "point_gst"): 622_831,
    ("scanobjectnn_hardest", "point_lora"): 772_752,
    ("scanobjectnn_hardest", "ga_prompt"): 628_147 - DEAD,
    ("scanobjectnn_hardest", "idpt"): 1_696_783,
    ("modelnet40", "stag"): 434_856,
    ("modelnet40", "ppt"): 1_048_616,
    ("modelnet40", "point_gst"): 629_256,
    ("modelnet40", "point_lora"): 779_177,
    ("modelnet40", "ga_prompt"): 630_476 - DEAD,
    ("modelnet40", "idpt"): 1_703_208,
}


def settings_of(config, method):
    argv = ["--config", str(CONFIGS / f"{config}.yaml"), "--method", method, "--out", "x"]
    argv += ["--backbone.checkpoint", "none"]
    needed = {"npz": "--data.train", "synthetic": None}.get(config, "--data.root")
    return parse("dapt train", argv if needed is None else [*argv, needed, "x"])


@pytest.mark.parametrize("config, method", TRAINED)
def test_published_counts_by_recipe(config, method):
    settings = settings_of(config, method)
    options = {k: v for k, v in settings.backbone.options.items() if k != "checkpoint"}
    backbone = create_backbone(settings.backbone.name, **options)
    classes = 40 if config == "modelnet40" else 15
    task = dapt.Classification(classes, **settings.task.options)
    made = dapt.methods.method_class(method)(**settings.method.options)
    assert dapt.attach(backbone, made, task).count_parameters()[0] == TRAINED[config, method]


@pytest.mark.parametrize(
    "config, method, augmentation, drop_path, head, dropout",
    [
        ("scanobjectnn_hardest", "stag", "scale_translate", 0.1, "point_mae", 0.5),
        ("scanobjectnn_hardest", "point_lora", "scale_translate", 0.3, "point_mae", 0.5),
        ("scanobjectnn_bg", "ppt", "rotate", 0.3, "ppt", 0.5),
        ("scanobjectnn_only", "ga_prompt", "rotate", 0.1, "point_mae", 0.6),
        ("scanobjectnn_only", "idpt", "rotate", 0.1, "point_mae", 0.5),
        ("modelnet40", "ga_prompt", "rotate", 0.1, "point_mae", 0.6),
        ("modelnet40", "point_gst", "scale_translate", 0.1, "point_mae", 0.5),
    ],
)
def test_published_training(config, method, augmentation, drop_path, head, dropout):
    settings = settings_of(config, method)
    assert settings.training.augmentation == augmentation
    assert settings.backbone.options["drop_path"] == drop_path
    assert settings.task.options["head"] == head and settings.task.options["dropout"] == dropout


@pytest.mark.parametrize(
    "config, rank, dropout, drop_path",
    [
        ("scanobjectnn_hardest", 64, 0.2, 0.3),
        ("scanobjectnn_bg", 64, 0.5, 0.3),
        ("scanobjectnn_only", 64, 0.0, 0.1),
        ("modelnet40", 72, 0.0, 0.1),
    ],
)
def test_published_settings_of_dapt(config, rank, dropout, drop_path):
    options = settings_of(config, "dapt").method.options
    got = options["rank"], options["dropout"], options["drop_path"]
    assert got == (rank, dropout, drop_path)


@pytest.mark.parametrize("config", ["npz", "synthetic"])
@pytest.mark.parametrize("method", METHODS)
def test_small_recipes_run(config, method):
    settings = settings_of(config, method)
    options = {k: v for k, v in settings.backbone.options.items() if k != "checkpoint"}
    backbone = create_backbone(settings.backbone.name, **options)
    made = dapt.methods.method_class(method)(**settings.method.options)
    model = dapt.attach(backbone, made, dapt.Classification(4, **settings.task.options)).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 1024, 3)).isfinite().all()


def test_recipes_of_scenes():
    words = ["--config", str(CONFIGS / "scenes.yaml"), "--data.train", "x", "--out", "x"]
    words += ["--backbone.checkpoint", "none"]
    heads = {"linear": "linear", "full": "decoder", "dapt": "linear", "peft:lora": "linear"}
    for method, head in heads.items():
        settings = parse("dapt train", [*words, "--method", method])
        assert settings.backbone.name == "ptv3_sonata_small" and settings.backbone.get("center")
        assert settings.task.get("head") == head and settings.data.get("channels") == "normal"
        assert settings.training.learning_rate == 2e-3
        assert settings.training.rates == ({"scales": 0.1} if method == "full" else {})
    lora = settings.method.get("settings")
    assert (lora["r"], lora["lora_alpha"], lora["target_modules"]) == (8, 16, ["qkv"])
    decoder = parse("dapt train", [*words, "--task.head", "decoder"])
    assert (decoder.method.name, decoder.task.get("head")) == ("linear", "decoder")


@pytest.mark.parametrize("config", [["--config", "{}"], ["--config={}"]])
def test_flags_beat_a_config_wherever_they_stand(config, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("data: {name: synthetic, train_size: 99, num_points: 512}\nseed: 1\n")
    second.write_text("data: {name: synthetic, train_size: 98}\nseed: 2\n")
    configs = [word.format(path) for path in (first, second) for word in config]
    flags = ["--data.train_size", "64", "--backbone", "point_mae_tiny", "--out", "x"]
    for words in ([*flags, *configs], [*configs, *flags], [*flags[:2], *configs, *flags[2:]]):
        for sections in (ADAPTATION, PRETRAINING):
            settings = parse("dapt", words, sections)
            given = settings.data.get("train_size"), settings.data.get("num_points")
            assert (*given, settings.training.seed) == (64, 512, 2)


@pytest.mark.parametrize(
    "words", [["--seed", "--config", "synthetic", "5"], ["--", "--config", "synthetic"]]
)
def test_a_config_in_front_hides_no_wrong_words(words):
    with pytest.raises(UsageError, match="--seed: expected one argument|no option --:"):
        parse("dapt train", ["--backbone", "point_mae_tiny", "--out", "x", *words])
