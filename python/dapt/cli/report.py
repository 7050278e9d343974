"""`dapt report`: runs in one page, and their tables for papers and READMEs."""

from dapt.cli.parsing import Parser, a_path, at_least_one
from dapt.errors import shown


def run(argv: list[str]) -> None:
    """Run `dapt report`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "report",
        "Summarize runs or a comparison in one self-contained page: scores, "
        "curves, classes, confusion, calibration, memory and time, dynamic scales, features and a "
        "gallery in 3D.",
    )
    parser.add_argument(
        "runs", type=a_path, nargs="+", help="run folders, or folders that contain runs"
    )
    parser.add_argument("--out", type=a_path, help="the page; by default report.html in the folder")
    parser.add_argument("--latex", action="store_true", help="also write the tables as LaTeX")
    parser.add_argument("--markdown", action="store_true", help="also write the tables as Markdown")
    parser.add_argument(
        "--samples",
        type=at_least_one,
        help="largest number of samples to run the models on; all by default",
    )
    parser.add_argument(
        "--files_only", action="store_true", help="report only what the files say; run no model"
    )
    args = parser.parse_args(argv)
    from dapt.view.report import Report

    report = Report.of(args.runs, args.samples, look=not args.files_only, say=print)
    out = args.out or args.runs[0] / "report.html"
    for path in report.write(out, args.markdown, args.latex):
        print(shown(f"{path}: {path.stat().st_size / 1e3:,.0f} kB"))
