"""`dapt report`: runs in one page, and their tables for papers and READMEs."""

from dapt.cli.parsing import Parser, a_path, at_least_one
from dapt.errors import shown


def run(argv: list[str]) -> None:
    """`dapt report`.

    Args:
        argv: the words behind it.
    """
    parser = Parser(
        "report",
        "Tell of a run, of several, or of a comparison in one page that needs no network: scores, "
        "curves, classes, confusion, calibration, memory and time, dynamic scales, features and a "
        "gallery in 3D.",
    )
    parser.add_argument(
        "runs", type=a_path, nargs="+", help="run folders, or folders that hold runs"
    )
    parser.add_argument("--out", type=a_path, help="the page; by default report.html in the folder")
    parser.add_argument("--latex", action="store_true", help="also the tables, as a paper has them")
    parser.add_argument("--markdown", action="store_true", help="also the tables, for a README")
    parser.add_argument(
        "--samples",
        type=at_least_one,
        help="most samples for the models to look at; all by default",
    )
    parser.add_argument(
        "--files_only", action="store_true", help="tell what the files say; no model is run"
    )
    args = parser.parse_args(argv)
    from dapt.view.report import Report

    report = Report.of(args.runs, args.samples, look=not args.files_only, say=print)
    out = args.out or args.runs[0] / "report.html"
    for path in report.write(out, args.markdown, args.latex):
        print(shown(f"{path}: {path.stat().st_size / 1e3:,.0f} kB"))
