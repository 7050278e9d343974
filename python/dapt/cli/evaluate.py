"""`dapt evaluate`: score a run's model."""

import json

from dapt.cli.parsing import Parser, a_path, add_votes
from dapt.errors import shown


def run(argv: list[str]) -> None:
    """Run `dapt evaluate`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "evaluate",
        "Score a run's model; torchrun uses several processes. Further options replace those of "
        "the run, for example --data.test FILE.",
    )
    parser.add_argument("run", type=a_path, help="run folder")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    add_votes(parser)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=a_path, help="also write the scores to this JSON file")
    parser.add_argument(
        "--corrupt",
        metavar="KINDS",
        help="score corrupted clouds at five severities: all, or a comma-separated list of jitter, "
        "dropout, occlusion, density, rotation",
    )
    args, flags = parser.parse_known_args(argv)
    from dapt.files import write_atomically
    from dapt.runs.folder import RunFolder
    from dapt.runs.options import TrainOptions
    from dapt.runs.processes import is_first_process
    from dapt.training.evaluation import evaluate_run

    options = TrainOptions(out=args.run, batch_size=args.batch_size, accelerator=args.accelerator)
    if args.corrupt:
        _evaluate_corrupted(args, flags, options)
        return
    result = evaluate_run(RunFolder(args.run, flags), args.split, args.votes, options)
    if is_first_process():
        _show_classes(result)
        if args.out:
            write_atomically(args.out, (json.dumps(result, indent=2) + "\n").encode())


def _evaluate_corrupted(args, flags: list[str], options) -> None:
    from dapt.data.corruptions import kinds_of
    from dapt.errors import UsageError
    from dapt.files import write_atomically
    from dapt.runs.folder import RunFolder
    from dapt.runs.processes import is_first_process
    from dapt.training.robustness import corrupted_scores

    if args.votes > 1:
        raise UsageError("--corrupt does not support voting: leave out --votes")
    kinds = kinds_of(args.corrupt)
    curves = corrupted_scores(RunFolder(args.run, flags), kinds, args.split, options)
    if not is_first_process():
        return
    width = max(map(len, curves))
    print(f"{'severity':{width}}", *(f"{severity:>9}" for severity in range(6)))
    for kind, values in curves.items():
        print(f"{kind:{width}}", *(f"{_cell(value):>9}" for value in values))
    if args.out:
        record = {"split": args.split, "corruptions": curves}
        write_atomically(args.out, (json.dumps(record, indent=2) + "\n").encode())


def _show_classes(result: dict) -> None:
    width = max(len(shown(row["class"])) for row in result["per_class"])
    columns = [column for column in result["per_class"][0] if column != "class"]
    print(f"{'class':{width}}", *(f"{column:>9}" for column in columns))
    for row in result["per_class"]:
        print(f"{shown(row['class']):{width}}", *(f"{_cell(row[column]):>9}" for column in columns))
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
