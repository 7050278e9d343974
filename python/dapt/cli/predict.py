"""`dapt predict`: label files of points with a run's model."""

import logging
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dapt.cli.parsing import Parser, a_path, add_votes, length
from dapt.errors import DataError, UsageError, listed, shown

log = logging.getLogger("dapt")


def run(argv: list[str]) -> None:
    """`dapt predict`.

    Args:
        argv: the words behind it.
    """
    parser = Parser(
        "predict",
        "Label files of points, or all below a folder: ply, pcd, off, obj, xyz, txt, csv, npy, "
        "las, npz. A model that labels points leaves the labels and a colored cloud of each file. "
        "Further options take the place of the run's: --backbone.checkpoint=FILE, say.",
    )
    parser.add_argument("run", type=a_path, help="run folder")
    parser.add_argument("files", type=a_path, nargs="+", help="files, or folders of them")
    add_votes(parser)
    parser.add_argument(
        "--out",
        type=a_path,
        help="also write the probabilities: .json or .csv; of a model that labels points the "
        "folder of its labels, by default `predictions` in the run folder",
    )
    parser.add_argument("--category", help="of the objects, for their parts")
    parser.add_argument("--block", type=length, help="side of a scene's blocks; else the run's")
    parser.add_argument("--stride", type=length, help="from block to block; else half a block")
    parser.add_argument("--up", choices=("x", "y", "z"), help="vertical axis; else the run's")
    args, flags = parser.parse_known_args(argv)
    from dapt.runs.assembly import restore_model
    from dapt.runs.folder import RunFolder

    args.files = _files_in(args.files)
    model = restore_model(RunFolder(args.run, flags))
    trained = model.preprocessing
    if args.up:
        trained = replace(trained, up=args.up)
    label = _label_points if model.adapter.task.labels_points else _label_clouds
    left_out = label(model, trained, args)
    if left_out:
        files = "1 file was" if left_out == 1 else f"{left_out} files were"
        raise DataError(f"{files} left out, as said above; the other files were labeled")


def _files_in(paths: Sequence[Path]) -> list[Path]:
    """The files, and in place of each folder all clouds and meshes below it."""
    from dapt.data.clouds import READERS

    kinds, files = {*READERS, ".npz"}, []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in kinds)
        if not inside:
            raise DataError(f"{path} holds no clouds or meshes: {', '.join(sorted(kinds))}")
        files += inside
    return files


def _file_by_file(files: Sequence[Path], channels: str, work: Callable[[Iterable], None]) -> int:
    """Work on the clouds of each file; of several, those that are bad are left out and counted."""
    from dapt.inference.prediction import clouds_of, clouds_of_all
    from dapt.progress import watched

    if len(files) == 1:
        work(clouds_of_all(files, channels))
        return 0
    left_out = 0
    for path in watched(files, "files", len(files)):
        try:
            work(clouds_of(path, channels))
        except DataError as error:
            log.warning("left out: %s", error)
            left_out += 1
    return left_out


def _label_clouds(model, trained, args: Namespace) -> int:
    if args.out and args.out.suffix not in (".json", ".csv"):
        raise UsageError(f"out must end in .json or .csv, got {args.out}")
    from dapt.inference import prediction

    predictions = []

    def work(clouds: Iterable) -> None:
        predictions.extend(list(prediction.predict(model, clouds, trained, args.votes)))

    left_out = _file_by_file(args.files, trained.channels, work)
    if args.out:
        prediction.write(predictions, args.out)
    for each in predictions:
        print(shown(f"{each['file']}: {each['label']} ({each['probability']:.3f})"))
    return left_out


def _label_points(model, trained, args: Namespace) -> int:
    if args.votes > 1:
        raise UsageError("votes are for models that label whole clouds; blocks of a scene overlap")
    if args.out and args.out.suffix in (".json", ".csv"):
        raise UsageError(f"out must be a folder where points are labeled, got {args.out}")
    stems = [path.stem for path in args.files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UsageError(
                f"two files are called {stem}: label them one by one, each its own --out"
            )
    from dapt.inference import labeling
    from dapt.inference.trained import label_points

    how = args.category, args.block, args.stride

    def work(clouds: Iterable) -> None:
        for scan in label_points(model, clouds, trained, *how):
            written = labeling.write(scan, args.out or args.run / "predictions")
            shares = listed(f"{name} {share:.1%}" for name, share in scan.shares().items())
            print(shown(f"{scan.name}: {len(scan.points):,} points: {shares}"))
            print(shown(f"  {' '.join(map(str, written))}"))

    return _file_by_file(args.files, trained.channels, work)
