"""`dapt view`: clouds in 3D, in one HTML file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dapt.cli.parsing import Parser, a_path, at_least_one, length
from dapt.errors import UsageError, shown


def run(argv: list[str]) -> None:
    """Run `dapt view`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "view",
        "Show clouds and scenes in 3D, in a self-contained page: files of ply, pcd, off, "
        "obj, xyz, npy, las, npz. With a run, also show its model's predictions; without files, "
        "show the run's own test data.",
    )
    parser.add_argument("files", type=a_path, nargs="*")
    parser.add_argument("--run", type=a_path, help="run folder whose model labels the clouds")
    parser.add_argument("--split", choices=("test", "validation", "train"), default="test")
    parser.add_argument("--limit", type=at_least_one, default=24, help="most clouds to show")
    parser.add_argument("--max_points", type=at_least_one, default=500_000, help="per cloud")
    parser.add_argument("--up", choices=("x", "y", "z"), help="vertical axis of the files")
    parser.add_argument("--category", help="category of the objects, for part segmentation")
    parser.add_argument("--block", type=length, help="side of a scene's blocks; default: the run's")
    parser.add_argument("--stride", type=length, help="step between blocks; default: half a block")
    parser.add_argument("--out", type=a_path, default=Path("view.html"), help="the page")
    parser.add_argument("--serve", action="store_true", help="serve the page on this machine")
    parser.add_argument("--port", type=int, default=0, help="for --serve; any free port by default")
    args = parser.parse_args(argv)
    if not args.files and not args.run:
        raise UsageError("name files of points, a run with --run, or both")
    if not 0 <= args.port <= 65535:
        raise UsageError(f"port must lie in 0 to 65535, got {args.port}")
    from dapt.view.viewer import viewer_page

    clouds, names = _clouds(args)
    page = viewer_page(clouds, names).encode()
    if args.serve:
        from dapt.view.serving import serve

        serve(page, args.port)
        return
    from dapt.files import write_atomically

    write_atomically(args.out, page)
    points = sum(len(cloud.points) for cloud in clouds)
    count = f"{len(clouds)} cloud{'s' if len(clouds) > 1 else ''}"
    size = f"{len(page) / 1e6:.1f} MB"
    print(shown(f"{args.out}: {count}, {points:,} points, {size}; open it in a browser"))


def _clouds(args) -> tuple[list, dict]:
    from dapt.progress import watched
    from dapt.view.portrayal import Portrayal

    observer = _observer(args) if args.run else None
    labels = observer.model.adapter.task.label_names if observer else ()
    portrayal = Portrayal(labels, args.max_points)
    clouds = [
        portrayal.cloud(subject, observer and observer.look(subject, is_sample=not args.files))
        for subject in watched(_subjects(args, observer), "clouds", _count(args))
    ]
    return clouds, portrayal.names()


def _count(args) -> int | None:
    """The number of clouds, if the file names tell."""
    if any(path.suffix.lower() == ".npz" for path in args.files):
        return None
    return min(args.limit, len(args.files) or args.limit)


def _observer(args):
    from dapt.runs.assembly import restore_model
    from dapt.runs.folder import RunFolder
    from dapt.view.observer import Observer

    folder = RunFolder(args.run)
    grid = {"block": args.block, "stride": args.stride, "up": args.up}
    return Observer(restore_model(folder), folder.settings(), category=args.category, **grid)


def _subjects(args, observer) -> Iterator:
    from dapt.view.subjects import of_dataset, of_file

    if not args.files:
        yield from of_dataset(_dataset(args, observer.settings), args.limit)
        return
    count, names = 0, [path.name for path in args.files]
    for path in args.files:
        for subject in of_file(path, observer.up_of_files() if observer else args.up):
            if count == args.limit:
                print(f"only the first {count} clouds are shown: --limit shows more")
                return
            if names.count(path.name) > 1:  # distinguish them by their folder
                subject = replace(subject, name=f"{path.parent.name}/{subject.name}")
            yield subject
            count += 1


def _dataset(args, settings):
    from dapt.runs.assembly import load_splits

    splits = dict(zip(("train", "validation", "test"), load_splits(settings), strict=True))
    if splits[args.split] is None:
        raise UsageError(
            f"the run in {args.run} names no {args.split} data: choose another --split"
        )
    return splits[args.split]
