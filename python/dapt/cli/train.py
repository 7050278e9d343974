"""`dapt train`: adapt a backbone to a dataset."""

from dapt.cli.completion import complete, is_asked
from dapt.errors import shown
from dapt.runs.settings import ADAPTATION, Settings, parse, parser_of


def run(argv: list[str]) -> None:
    """Run `dapt train`.

    Args:
        argv: The command-line arguments.
    """
    if is_asked():
        complete(parser_of("dapt train", argv, ADAPTATION))
    settings = parse("dapt train", argv, description="Adapt a backbone to a dataset.")
    from dapt.runs.processes import is_first_process
    from dapt.training.loop import train

    result = train(settings)
    if result and is_first_process():
        _show(settings, result)


def _show(settings: Settings, result: dict) -> None:
    metric, split = result["metric"], result["split"]
    words, score = metric.replace("_", " "), f"{result[metric]:.4f}"
    if "folds" in result:
        spread, count = result[f"{metric}_std"], len(result["folds"])
        print(f"{split} {words} {score} ± {spread:.4f} over {count} folds")
    elif f"validation_{metric}" in result:
        best, validation = result["best_epoch"] + 1, result[f"validation_{metric}"]
        print(f"{split} {words} {score}, of the epoch best on validation")
        print(f"validation {words} {validation:.4f} (epoch {best})")
    else:
        print(f"{split} {words} {score}, of the last epoch")
    if f"{metric}_of_best_epoch_by_test" in result:
        by_test = result[f"{metric}_of_best_epoch_by_test"]
        print(f"of the epoch best on the test split, as papers often report: {by_test:.4f}")
    trained, total = result["trainable_parameters"], result["total_parameters"]
    print(f"trained {trained:,} of {total:,} parameters ({trained / total:.2%})")
    print(shown(f"run folder: {settings.training.out}"))
