"""`dapt predict`: label files of points with a run's model."""

from argparse import Namespace
from dataclasses import replace

from dapt.cli.parsing import Parser, a_path, add_votes, length
from dapt.errors import UsageError


def run(argv: list[str]) -> None:
    """`dapt predict`."""
    parser = Parser(
        "predict",
        "Label files of points: ply, pcd, off, obj, xyz, npy, las, npz. A model that labels points "
        "leaves the labels and a colored cloud of each file.",
    )
    parser.add_argument("run", type=a_path, help="run folder")
    parser.add_argument("files", type=a_path, nargs="+")
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
    args = parser.parse_args(argv)
    from dapt.runs.assembly import load_run

    model = load_run(args.run)
    trained = model.preprocessing
    if args.up:
        trained = replace(trained, up=args.up)
    label = _label_points if model.adapter.task.labels_points else _label_clouds
    label(model, trained, args)


def _label_clouds(model, trained, args: Namespace) -> None:
    if args.out and args.out.suffix not in (".json", ".csv"):
        raise UsageError(f"out must end in .json or .csv, got {args.out}")
    from dapt.inference import prediction

    clouds = prediction.clouds_of_all(args.files, trained.channels)
    predictions = list(prediction.predict(model, clouds, trained, args.votes))
    if args.out:
        prediction.write(predictions, args.out)
    for each in predictions:
        print(f"{each['file']}: {each['label']} ({each['probability']:.3f})")


def _label_points(model, trained, args: Namespace) -> None:
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
    from dapt.inference import labeling, prediction
    from dapt.inference.trained import label_points

    clouds = prediction.clouds_of_all(args.files, trained.channels)
    for scan in label_points(model, clouds, trained, args.category, args.block, args.stride):
        written = labeling.write(scan, args.out or args.run / "predictions")
        shares = ", ".join(f"{name} {share:.1%}" for name, share in scan.shares().items())
        print(f"{scan.name}: {len(scan.points):,} points: {shares}")
        print(f"  {' '.join(map(str, written))}")
