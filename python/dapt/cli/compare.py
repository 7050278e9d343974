"""`dapt compare`: several methods, several seeds, one table."""

from dapt.cli.parsing import Parser, a_path, at_least_one
from dapt.errors import UsageError


def run(argv: list[str]) -> None:
    """Run `dapt compare`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "compare",
        "Train several methods with several seeds and write comparison.md, .csv, .json, .png and "
        "report.html. Repeating the command resumes it. Further options are those of dapt train.",
    )
    parser.add_argument("--methods", required=True, help="dapt,linear,full,...")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="runs per method")
    parser.add_argument(
        "--config", type=a_path, help="YAML file; settings per method under `methods:`"
    )
    parser.add_argument(
        "--out", type=a_path, required=True, help="folder for the runs and the table"
    )
    parser.add_argument(
        "--search",
        metavar="RATES",
        help="learning rates to choose from for each method, on the validation split: "
        "3e-4,1e-3,3e-3",
    )
    parser.add_argument(
        "--search_seeds", type=at_least_one, default=1, help="search runs per method and rate"
    )
    parser.add_argument(
        "--reference", help="method to compare the others with; the first by default"
    )
    parser.add_argument(
        "--corrupt",
        metavar="KINDS",
        help="also score each run on corrupted clouds: all, or a comma-separated list of jitter, "
        "dropout, occlusion, density, rotation",
    )
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        help="runs at a time, which share the cores of this machine; with Slurm all, otherwise one",
    )
    parser.add_argument(
        "--launcher",
        choices=("here", "slurm"),
        default="here",
        help="slurm submits each run to Slurm as a job, through submitit",
    )
    add_slurm(parser)
    args, flags = parser.parse_known_args(argv)
    given = {name[6:]: value for name, value in vars(args).items() if name.startswith("slurm_")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and args.launcher != "slurm":
        raise UsageError(f"--slurm.{next(iter(given))} needs --launcher slurm")
    from dapt.data.corruptions import kinds_of
    from dapt.training.compare import compare
    from dapt.training.search import Search
    from dapt.training.slurm import SlurmOptions

    slurm = SlurmOptions(**given) if args.launcher == "slurm" else None
    search = Search.of(args.search, args.search_seeds) if args.search else None
    kinds = kinds_of(args.corrupt) if args.corrupt else ()
    methods = args.methods.split(",")
    where = args.config, args.out, flags, args.jobs, slurm
    print(compare(methods, args.seeds, *where, search, args.reference, kinds), end="")


def add_slurm(parser: Parser) -> None:
    """Add the options `--slurm.partition` and so on.

    Args:
        parser: The parser of a command that launches runs.
    """
    group = parser.add_argument_group("with --launcher slurm", "What each job requests.")
    words = {
        "partition": "partition of the cluster",
        "time": "minutes per job (1440); a run that needs more continues in another job",
        "gpus": "GPUs per job (0)",
        "cpus": "cores per job (4)",
        "memory": "GB per job",
        "account": "account to charge",
        "qos": "quality of service",
        "constraint": "features that a node must have",
        "setup": "a shell command before the run, such as 'module load cuda'",
    }
    for name, meaning in words.items():
        kind = int if name in ("time", "gpus", "cpus", "memory") else str
        group.add_argument(f"--slurm.{name}", dest=f"slurm_{name}", type=kind, help=meaning)
