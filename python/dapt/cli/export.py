"""`dapt export`: a run's model as a file that runs elsewhere."""

from pathlib import Path

from dapt.cli.parsing import Parser, at_least_one
from dapt.errors import shown


def run(argv: list[str]) -> None:
    """Run `dapt export`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "export",
        "Write a run's model, with its adapter folded into the network, as one file: pt2 for "
        "Python and C++ with torch and dapt_ext, or onnx for any ONNX runtime.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--format", choices=("pt2", "onnx"), help="by default, the ending of --out")
    parser.add_argument("--out", type=Path, help="the file; by default model.FORMAT in the run")
    parser.add_argument(
        "--num_points", type=at_least_one, help="points per cloud; any number by default"
    )
    args = parser.parse_args(argv)
    from dapt.inference.export import export
    from dapt.runs.assembly import restore_model
    from dapt.runs.folder import RunFolder

    folder = RunFolder(args.run)
    out = args.out or folder.path / f"model.{args.format or 'pt2'}"
    path = export(restore_model(folder), out, args.format, args.num_points)
    print(shown(f"{path}, {path.stat().st_size / 1e6:.1f} MB"))
