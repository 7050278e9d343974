"""`dapt compare`: several methods, several seeds, one table."""

from dapt.cli.parsing import Parser, a_path, at_least_one
from dapt.errors import UsageError


def run(argv: list[str]) -> None:
    """`dapt compare`.

    Args:
        argv: the words behind it.
    """
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
    parser.add_argument(
        "--search",
        metavar="RATES",
        help="learning rates to choose from for each method by the validation split: "
        "3e-4,1e-3,3e-3",
    )
    parser.add_argument(
        "--search_seeds", type=at_least_one, default=1, help="search runs of each method and rate"
    )
    parser.add_argument(
        "--reference", help="method that the others are compared with; the first by default"
    )
    parser.add_argument(
        "--corrupt",
        metavar="KINDS",
        help="score each run on corrupted clouds, too: jitter, dropout, occlusion, density, "
        "rotation, some of them with commas, or all",
    )
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        help="runs at once, which share the cores of this machine; with Slurm all, else one",
    )
    parser.add_argument(
        "--launcher",
        choices=("here", "slurm"),
        default="here",
        help="slurm hands each run to Slurm as a job, by submitit",
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
    """The options `--slurm.partition` and so on.

    Args:
        parser: Of a command that launches runs.
    """
    group = parser.add_argument_group("with --launcher slurm", "What each run asks for.")
    words = {
        "partition": "of the cluster",
        "time": "minutes of a job (1440); a run that needs more goes on in another one",
        "gpus": "GPUs of a job (0)",
        "cpus": "cores of a job (4)",
        "memory": "GB of a job",
        "account": "whom the job is charged to",
        "qos": "quality of service",
        "constraint": "features that a node must have",
        "setup": "a shell command before the run: 'module load cuda', say",
    }
    for name, meaning in words.items():
        kind = int if name in ("time", "gpus", "cpus", "memory") else str
        group.add_argument(f"--slurm.{name}", dest=f"slurm_{name}", type=kind, help=meaning)
