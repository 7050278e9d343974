"""The commands, from their arguments to what they print."""

from argparse import ArgumentError

from dapt import config
from dapt.config import Tree
from dapt.errors import UsageError

ADAPTATION = ("data", "backbone", "method", "task")
PRETRAINING = ("data", "backbone")


def train(argv: list[str]) -> None:
    tree = _parse("dapt train", argv, ADAPTATION, "Adapt a backbone to a dataset.")
    from dapt import train as training

    result = training.train(tree)
    if result:
        _show(tree, result)


def pretrain(argv: list[str]) -> None:
    tree = _parse("dapt pretrain", argv, PRETRAINING, "Train a backbone by hiding patches.")
    from dapt import train as training

    result = training.pretrain(tree)
    print(f"validation loss {result['validation_loss']:.6f} (epoch {result['best_epoch'] + 1})")
    print(f"backbone: {tree['out']}/backbone.safetensors")


def _show(tree: Tree, result: dict) -> None:
    best = result["best_epoch"] + 1
    print(f"{result['split']} accuracy {result['accuracy']:.4f}, of the epoch best on validation")
    print(f"validation accuracy {result['validation_accuracy']:.4f} (epoch {best})")
    if "accuracy_of_best_epoch_by_test" in result:
        by_test = result["accuracy_of_best_epoch_by_test"]
        print(f"the field's number, of the epoch best on the test split itself: {by_test:.4f}")
    trained, total = result["trainable_parameters"], result["total_parameters"]
    print(f"trained {trained:,} of {total:,} parameters ({trained / total:.2%})")
    print(f"run folder: {tree['out']}")


def _parse(prog: str, argv: list[str], sections: tuple[str, ...], description: str) -> Tree:
    try:
        return config.parse(prog, argv, sections, description)
    except ArgumentError as error:
        raise UsageError(str(error)) from None
