"""`dapt predict`: label files of points with a run's model."""

import logging
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dapt.cli.parsing import Parser, a_path, add_votes, at_least_one, length
from dapt.errors import DataError, UsageError, listed, shown

log = logging.getLogger("dapt")


def run(argv: list[str]) -> None:
    """Run `dapt predict`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "predict",
        "Label files of points, or all files below a folder: ply, pcd, off, obj, xyz, txt, csv, "
        "npy, las, laz, npz. A model that labels points writes labels and a colored cloud of each. "
        "Further options replace those of the run, for example --backbone.checkpoint=FILE.",
    )
    parser.add_argument("run", type=a_path, help="run folder")
    parser.add_argument("files", type=a_path, nargs="+", help="files, or folders of files")
    add_votes(parser)
    parser.add_argument(
        "--out",
        type=a_path,
        help="also write the probabilities, to a .json or .csv file; for a model that labels "
        "points, the folder for its labels, by default `predictions` in the run folder",
    )
    parser.add_argument("--category", help="category of the objects, for part segmentation")
    parser.add_argument("--block", type=length, help="side of a scene's blocks; default: the run's")
    parser.add_argument("--stride", type=length, help="step between blocks; default: half a block")
    parser.add_argument("--up", choices=("x", "y", "z"), help="vertical axis; default: the run's")
    parser.add_argument(
        "--tile", type=at_least_one, help="points of a scene in memory at a time (2,000,000)"
    )
    parser.add_argument(
        "--asprs",
        metavar="CODES",
        help="also write the classification of las files: ground=2,building=6, or a YAML file, "
        "or `names` if the labels have the names of the ASPRS classes",
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "auto"),
        default="fp32",
        help="of matrix products: fp32 (the default), bf16, or auto for bf16 where this machine "
        "has units for it; then probabilities have about three digits",
    )
    parser.set_defaults(left_out=0)
    args, flags = parser.parse_known_args(argv)
    from dapt.runs.assembly import restore_model
    from dapt.runs.folder import RunFolder
    from dapt.runs.options import TrainOptions
    from dapt.runs.processes import autocast, device_of, team

    args.files = _files_in(args.files)
    options = TrainOptions(out=args.run, accelerator=args.accelerator, precision=args.precision)
    model = restore_model(RunFolder(args.run, flags)).to(device_of(options))
    trained = model.preprocessing
    if args.up:
        trained = replace(trained, up=args.up)
    label = _label_points if model.adapter.task.labels_points else _label_clouds
    with team() as processes, autocast(options):
        left_out = label(model, trained, args, processes)
    if left_out:
        files = "1 file was" if left_out == 1 else f"{left_out} files were"
        raise DataError(f"{files} skipped, see above; the other files were labeled")


def _files_in(paths: Sequence[Path]) -> list[Path]:
    """The files, with each folder replaced by all clouds and meshes below it."""
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


def _file_by_file(args: Namespace, files: Sequence[Path], channels: str, work, team) -> Iterator:
    """Apply `work` to the clouds of each file, shared by the processes; skip bad files."""
    from dapt.inference.prediction import clouds_of, clouds_of_all
    from dapt.progress import Bar

    clouds = clouds_of_all if len(args.files) == 1 else _one(clouds_of)
    with Bar("files", len(files), shown=team.speaks and len(files) > 1) as bar:
        for begin in range(0, len(files), team.size):
            group = files[begin : begin + team.size]
            found = team.each(group, lambda path: work(clouds([path], channels)))
            yield from _those_that_are_good(args, found)
            bar.advance(len(group))


def _one(clouds_of):
    return lambda paths, channels: clouds_of(*paths, channels)


def _those_that_are_good(args: Namespace, found: Iterable) -> Iterator:
    """Raise the error of a single file; count the errors of several."""
    for each in found:
        if not isinstance(each, DataError):
            yield each
        elif len(args.files) == 1:
            raise each
        else:
            log.warning("skipped: %s", each)
            args.left_out += 1


def _label_clouds(model, trained, args: Namespace, team) -> int:
    if args.out and args.out.suffix not in (".json", ".csv"):
        raise UsageError(f"out must end in .json or .csv, got {args.out}")
    from dapt.inference import prediction

    def work(files: Sequence[Path]) -> Iterable:
        return prediction.predict_files(model, files, trained, args.votes, shown=team.speaks)

    found = _those_that_are_good(args, team.together(args.files, work))
    predictions = [each for of_file in found for each in of_file]
    if team.speaks:
        if args.out:
            prediction.write(predictions, args.out)
        for each in predictions:
            print(shown(f"{each['file']}: {each['label']} ({each['probability']:.3f})"))
    return args.left_out


def _label_points(model, trained, args: Namespace, team) -> int:
    if args.votes > 1:
        raise UsageError("votes are for models that label whole clouds; blocks of a scene overlap")
    if args.out and args.out.suffix in (".json", ".csv"):
        raise UsageError(f"out must be a folder for a model that labels points, got {args.out}")
    stems = [path.stem for path in args.files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UsageError(
                f"two files are called {stem}: label them separately, each with its own --out"
            )
    from dapt.inference import labeling
    from dapt.inference.asprs import codes_of
    from dapt.inference.scene_parts import is_streamed
    from dapt.inference.scenes import SceneOptions, label_scenes
    from dapt.inference.trained import label_points, sides

    names = model.adapter.task.label_names
    folder = args.out or args.run / "predictions"
    codes = None if args.asprs is None else codes_of(_codes_in(args.asprs), names)
    streamed = []
    if model.adapter.task.name != "part_segmentation":
        streamed = [path for path in args.files if is_streamed(path, trained.channels)]
        block, stride = sides(trained, args.block, args.stride)
        options = {"out": folder, "block": block, "stride": stride, "codes": codes}
        options = SceneOptions(**options, **({"tile": args.tile} if args.tile else {}))

    def say(name: str, counts, written: Iterable[Path]) -> None:
        if team.speaks:
            shares = listed(
                f"{name} {share:.1%}" for name, share in labeling.shares(counts, names).items()
            )
            print(shown(f"{name}: {sum(counts):,} points: {shares}"))
            print(shown(f"  {' '.join(map(str, written))}"), flush=True)

    if streamed:
        found = label_scenes(model, streamed, trained, options, team)
        for each in _those_that_are_good(args, found):
            say(each.name, each.counts, each.written)

    def work(clouds: Iterable) -> list:
        scans = label_points(model, clouds, trained, args.category, args.block, args.stride)
        return [(scan.name, scan.counts(), labeling.write(scan, folder)) for scan in scans]

    whole = [path for path in args.files if path not in streamed]
    for scans in _file_by_file(args, whole, trained.channels, work, team):
        for scan in scans:
            say(*scan)
    return args.left_out


def _codes_in(text: str) -> dict[str, int] | None:
    """Parse `names`, `floor=2,wall=6`, or a YAML file with such pairs."""
    from dapt.runs.trees import read_yaml

    if text == "names":
        return None
    if "=" not in text:
        return read_yaml(Path(text))
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    wrong = [f"{name}={code}" for name, _, code in pairs if not name or not code.strip().isdigit()]
    if wrong:
        raise UsageError(f"--asprs takes names, label=code,... or a YAML file, got {wrong[0]}")
    return {name.strip(): int(code) for name, _, code in pairs}
