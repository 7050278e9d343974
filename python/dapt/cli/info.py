"""`dapt info`: what a model costs before it is trained, or what an adapter folder contains."""

from pathlib import Path

from dapt.cli.parsing import Parser, a_path, at_least_one
from dapt.errors import UsageError


def run(argv: list[str]) -> None:
    """Run `dapt info`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "info",
        "Explain an adapter folder, or count a model's parameters, memory and arithmetic.",
    )
    parser.add_argument(
        "adapter",
        nargs="?",
        help="folder of an adapter or a run, or hf://owner/repository@revision on a hub",
    )
    parser.add_argument("--config", type=a_path, help="YAML file with backbone, method and task")
    parser.add_argument("--backbone", help="name of the backbone, instead of the config's")
    parser.add_argument("--method", help="name of the method, instead of the config's")
    parser.add_argument("--num_classes", type=at_least_one, default=15)
    parser.add_argument("--num_parts", type=at_least_one, default=50, help="for part segmentation")
    parser.add_argument("--num_points", type=at_least_one, default=2048)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args(argv)
    if args.adapter is not None:
        return _explain(_folder(args.adapter))
    if args.batch_size < 2:
        raise UsageError(f"batch_size must be at least 2 for a batch norm, got {args.batch_size}")
    from dapt.runs.cost import measure
    from dapt.runs.settings import model_sections

    names = {"backbone": args.backbone, "method": args.method}
    cost = measure(
        **model_sections(args.config, {section: name for section, name in names.items() if name}),
        num_classes=args.num_classes,
        num_parts=args.num_parts,
        num_points=args.num_points,
        batch_size=args.batch_size,
    )
    trained, total = cost["trainable_parameters"], cost["total_parameters"]
    print(f"trained {trained:,} of {total:,} parameters ({trained / total:.2%})")
    print(f"backbone {cost['backbone_bytes'] / 1e6:.2f} MB")
    print(f"adapter file about {cost['adapter_bytes'] / 1e6:.2f} MB")
    print(f"{cost['flops_per_cloud'] / 1e9:.2f} GFLOP per cloud in torch's matrix products")
    kept = cost["saved_activation_bytes"] / 2**20
    print(f"{kept:.1f} MiB kept for the backward pass of {args.batch_size} clouds")


def _folder(word: str) -> Path:
    """The folder of an adapter or a run; one on a hub is downloaded."""
    from dapt.adapters.hub import fetch
    from dapt.models.sources import HUB

    if not word.startswith(HUB):
        return a_path(word)
    repository, _, revision = word.removeprefix(HUB).partition("@")
    return fetch(repository, revision or None).folder


def _explain(path: Path) -> None:
    from dapt.adapters import adapter_files
    from dapt.adapters.description import describe, lines
    from dapt.runs import provenance
    from dapt.runs.folder import RunFolder

    within = path / "adapter"
    folder = path if (path / adapter_files.CONFIG).is_file() or not within.is_dir() else within
    description = describe(folder)
    load = description.pop("load it")
    of_run = provenance.description(RunFolder(folder.parent))
    print(lines(description | of_run | {"load it": load}))
