"""The commands, from their arguments to what they print."""

import json
from argparse import ArgumentError, ArgumentParser
from pathlib import Path

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


def evaluate(argv: list[str]) -> None:
    parser = _parser("evaluate", "Score a run's model, by torchrun on several processes.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--votes", type=int, default=1, help="views of a cloud to average over")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, help="also write the scores to this JSON file")
    args = parser.parse_args(argv)
    if args.votes < 1:
        raise UsageError(f"votes must be at least 1, got {args.votes}")
    from dapt import distributed, runs
    from dapt.evaluate import evaluate_run

    options = config.TrainOptions(
        out=args.run, batch_size=args.batch_size, accelerator=args.accelerator
    )
    result = evaluate_run(runs.RunFolder(args.run), args.split, args.votes, options)
    if distributed.is_first_process():
        _show_classes(result)
        if args.out:
            runs.write_atomically(args.out, (json.dumps(result, indent=2) + "\n").encode())


def predict(argv: list[str]) -> None:
    parser = _parser(
        "predict",
        "Label files of points: ply, pcd, off, obj, xyz, npy, las, npz. A model that labels points "
        "leaves the labels and a coloured cloud of each file.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--votes", type=int, default=1, help="views of a cloud to average over")
    parser.add_argument(
        "--out",
        type=Path,
        help="also write the probabilities: .json or .csv; of a model that labels points the "
        "folder of its labels, by default `predictions` in the run folder",
    )
    parser.add_argument("--category", help="of the objects, for their parts")
    parser.add_argument("--block", type=float, help="side of a scene's blocks; else the run's")
    parser.add_argument("--stride", type=float, help="from block to block; else half a block")
    parser.add_argument("--up", choices=("x", "y", "z"), help="vertical axis; else the run's")
    args = parser.parse_args(argv)
    if args.votes < 1:
        raise UsageError(f"votes must be at least 1, got {args.votes}")
    from dapt import assembly, runs

    folder = runs.RunFolder(args.run)
    tree = folder.settings()
    model = assembly.restore_model(tree, folder)
    if model.adapter.task.labels_points:
        _predict_points(model, tree, args)
    else:
        _predict_clouds(model, tree, args)


def _predict_clouds(model, tree: Tree, args) -> None:
    if args.out and args.out.suffix not in (".json", ".csv"):
        raise UsageError(f"out must end in .json or .csv, got {args.out}")
    from dapt import prediction

    as_trained = {"normalize": tree["data"].get("normalize", True)}
    as_trained["up"] = args.up or tree["data"].get("up", "y")
    predictions = prediction.predict(
        model, args.files, tree["num_points"], votes=args.votes, **as_trained
    )
    if args.out:
        prediction.write(predictions, args.out)
    for each in predictions:
        print(f"{each['file']}: {each['label']} ({each['probability']:.3f})")


def _predict_points(model, tree: Tree, args) -> None:
    if args.votes > 1:
        raise UsageError("votes are for models that label whole clouds; blocks of a scene overlap")
    if args.out and args.out.suffix in (".json", ".csv"):
        raise UsageError(f"out must be a folder where points are labelled, got {args.out}")
    stems = [path.stem for path in args.files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UsageError(
                f"two files are called {stem}: label them one by one, each its own --out"
            )
    from dapt import labelling

    data = tree["data"]
    shared = model, args.files, tree["num_points"]
    normalize = data.get("normalize", True)
    if model.adapter.task.name == "part_segmentation":
        up = args.up or data.get("up", "y")
        scans = labelling.label_objects(*shared, args.category, normalize, up)
    else:
        block = args.block or data.get("block", 1.0)
        grid = {"block": block, "stride": args.stride or block / 2}
        grid["up"] = args.up or data.get("up", "z")
        scans = labelling.label_rooms(*shared, normalize, **grid)
    for scan in scans:
        written = labelling.write(scan, args.out or args.run / "predictions")
        shares = ", ".join(f"{name} {share:.1%}" for name, share in scan.shares().items())
        print(f"{scan.name}: {len(scan.points):,} points: {shares}")
        print(f"  {' '.join(map(str, written))}")


def compare(argv: list[str]) -> None:
    parser = _parser(
        "compare",
        "Train several methods with several seeds, or go on where that stopped, and write "
        "comparison.md, .csv, .json and .png. Further options are those of dapt train.",
    )
    parser.add_argument("--methods", required=True, help="dapt,linear,full,...")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file for all methods, or a folder with a file <method>.yaml for each",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    args, flags = parser.parse_known_args(argv)
    from dapt import compare as comparison

    methods = args.methods.split(",")
    try:
        print(comparison.compare(methods, args.seeds, args.config, args.out, flags), end="")
    except ArgumentError as error:
        raise UsageError(str(error)) from None


def info(argv: list[str]) -> None:
    parser = _parser("info", "Count a model's parameters, memory and arithmetic.")
    parser.add_argument("--config", type=Path, help="YAML file with backbone, method and task")
    parser.add_argument("--backbone", help="its name, in place of the config's")
    parser.add_argument("--method", help="its name, in place of the config's")
    parser.add_argument("--num_classes", type=int, default=15)
    parser.add_argument("--num_parts", type=int, default=50, help="of part segmentation")
    parser.add_argument("--num_points", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args(argv)
    if args.batch_size < 2:
        raise UsageError(f"batch_size must be at least 2 for a batch norm, got {args.batch_size}")
    names = {"backbone": args.backbone, "method": args.method}
    try:
        tree = config.model_settings(args.config, {k: v for k, v in names.items() if v})
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    from dapt import model_info

    sizes = args.num_classes, args.num_parts, args.num_points, args.batch_size
    cost = model_info.measure(tree, *sizes)
    trained, total = cost["trainable_parameters"], cost["total_parameters"]
    print(f"trained {trained:,} of {total:,} parameters ({trained / total:.2%})")
    print(f"adapter file about {cost['adapter_bytes'] / 1e6:.2f} MB")
    print(f"{cost['flops_per_cloud'] / 1e9:.2f} GFLOP a cloud in torch's matrix products")
    kept = cost["saved_activation_bytes"] / 2**20
    print(f"{kept:.1f} MiB kept for the backward of {args.batch_size} clouds")


def doctor(argv: list[str]) -> None:
    _parser("doctor", "Say what is installed, and what is missing for what.").parse_args(argv)
    from dapt import doctor as examination

    print("\n".join(examination.lines()))


class _Parser(ArgumentParser):
    def error(self, message: str) -> None:
        raise UsageError(message)


def _parser(command: str, description: str) -> ArgumentParser:
    return _Parser(prog=f"dapt {command}", description=description)


def _show(tree: Tree, result: dict) -> None:
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
        print(f"the field's number, of the epoch best on the test split itself: {by_test:.4f}")
    trained, total = result["trainable_parameters"], result["total_parameters"]
    print(f"trained {trained:,} of {total:,} parameters ({trained / total:.2%})")
    print(f"run folder: {tree['out']}")


def _show_classes(result: dict) -> None:
    width = max(len(row["class"]) for row in result["per_class"])
    columns = [column for column in result["per_class"][0] if column != "class"]
    print(f"{'class':{width}}", *(f"{column:>9}" for column in columns))
    for row in result["per_class"]:
        print(f"{row['class']:{width}}", *(f"{_cell(row[column]):>9}" for column in columns))
    votes = f", {result['votes']} votes" if result["votes"] > 1 else ""
    scores = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in result.items()
        if isinstance(value, float)
    )
    print(f"{result['split']} {scores}{votes}, {result['samples']} clouds")


def _cell(value: int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _parse(prog: str, argv: list[str], sections: tuple[str, ...], description: str) -> Tree:
    try:
        return config.parse(prog, argv, sections, description)
    except ArgumentError as error:
        raise UsageError(str(error)) from None
