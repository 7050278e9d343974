"""`dapt compare`: several methods, several seeds, one table."""

from dapt.cli.parsing import Parser, a_path, at_least_one


def run(argv: list[str]) -> None:
    """`dapt compare`."""
    parser = Parser(
        "compare",
        "Train several methods with several seeds, or go on where that stopped, and write "
        "comparison.md, .csv, .json and .png and report.html. Further options are those of dapt "
        "train.",
    )
    parser.add_argument("--methods", required=True, help="dapt,linear,full,...")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="runs of each method")
    parser.add_argument(
        "--config", type=a_path, help="YAML file, with what differs under `methods:`"
    )
    parser.add_argument(
        "--out", type=a_path, required=True, help="folder of the runs and the table"
    )
    args, flags = parser.parse_known_args(argv)
    from dapt.training.compare import compare

    print(compare(args.methods.split(","), args.seeds, args.config, args.out, flags), end="")
