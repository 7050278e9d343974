"""`dapt serve`: runs' models behind HTTP."""

import os
import re
from pathlib import Path

from dapt.cli.parsing import Parser, a_path, at_least_one, length
from dapt.errors import UsageError, shown

TOKEN = "DAPT_SERVE_TOKEN"


def run(argv: list[str]) -> None:
    """Run `dapt serve`.

    Args:
        argv: The command-line arguments.
    """
    parser = Parser(
        "serve",
        "Label clouds over HTTP with the models of runs. Runs with the same backbone share it, and "
        "their clouds are batched together. The page /docs shows the routes.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="run", help="run folder, called by its name, or NAME=FOLDER"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; only this machine by default"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any free port")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--adapters",
        type=a_path,
        help="folder of adapters that may be loaded and unloaded by name, with the token in the "
        f"environment variable {TOKEN}",
    )
    parser.add_argument("--max_mb", type=at_least_one, default=32, help="MiB per request")
    parser.add_argument("--max_points", type=at_least_one, default=500_000, help="per request")
    parser.add_argument("--timeout", type=length, default=60.0, help="seconds per request")
    parser.add_argument("--queue", type=at_least_one, default=128, help="requests at a time")
    parser.add_argument("--batch", type=at_least_one, default=32, help="clouds per batch")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        raise UsageError(f"port must lie in 0 to 65535, got {args.port}")
    token = os.environ.get(TOKEN)
    if args.adapters and not token:
        raise UsageError(f"--adapters needs a token in the environment variable {TOKEN}")
    folders = named(args.runs)
    from dapt.inference.serving.limits import Limits
    from dapt.inference.serving.running import serve
    from dapt.inference.serving.shelf import Shelf
    from dapt.runs.assembly import restore_together
    from dapt.runs.folder import RunFolder

    limits = Limits(args.max_mb, args.max_points, args.timeout, args.queue, args.batch)
    shelf = Shelf(args.adapters)
    runs = {name: RunFolder(path) for name, path in folders.items()}
    for name, model, fallback in restore_together(runs, _device(args.device)):
        shelf.put(name, model, fallback)
    names = ", ".join(served.name for served in shelf)

    def ready(url: str) -> None:
        print(shown(f"{url} serves {names} until Ctrl-C; {url}/docs shows how"), flush=True)

    serve(shelf, args.host, args.port, limits, token if args.adapters else None, ready)


def named(words: list[str]) -> dict[str, Path]:
    """The run folders by name: the part before =, or the last part of the path.

    Args:
        words: The arguments as typed.
    """
    folders: dict[str, Path] = {}
    for word in words:
        given = re.match(r"([A-Za-z0-9][\w.-]*)=(.+)", word)
        path = a_path(given[2] if given else word)
        name = given[1] if given else path.resolve().name
        if name in folders:
            raise UsageError(f"two runs are called {name}: rename one, for example {name}_2={path}")
        folders[name] = path
    return folders


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("this machine has no CUDA device: use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
