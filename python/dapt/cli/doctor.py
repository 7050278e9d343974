"""`dapt doctor`: what is installed, what is missing, and which kernels run here."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import dapt_ext
from dapt.cli.parsing import Parser
from dapt.errors import extras
from dapt.plugins import KINDS, installed

PURPOSES = {
    "train": "training and its commands, h5 files, charts",
    "files": "meshes and las files",
    "hub": "checkpoints and adapters on the Hugging Face Hub",
    "serve": "models over HTTP",
    "peft": "methods from Hugging Face PEFT",
    "view": "t-SNE in reports",
}
DEVELOPMENT = ("bench", "browser", "build", "dev", "docs", "test")  # not needed by users


def run(argv: list[str]) -> None:
    """Run `dapt doctor`.

    Args:
        argv: The command-line arguments.
    """
    Parser("doctor", "List what is installed, and which features lack a package.").parse_args(argv)
    print("\n".join(lines()))


def lines() -> list[str]:
    """What is installed here, one line per item."""
    build = dapt_ext.build_info()
    told = [
        f"python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}",
        f"kernels: dapt_ext {build['version']}, {build['compiler']}",
        f"CPU: {', '.join(build['cpu_instruction_sets'])}; "
        f"in use: {build['cpu_instruction_set_in_use']}; {torch.get_num_threads()} threads",
        _cuda(build["cuda_architectures"]),
    ]
    for extra, packages in extras().items():
        if extra not in DEVELOPMENT:
            told.append(_extra(extra, packages))
    told += [
        f"plug-in: {kind} {name}, from {point.dist.name} {point.dist.version}"
        for kind in KINDS
        for name, point in sorted(installed(kind).items())
    ]
    return told


def _extra(extra: str, packages: list[str]) -> str:
    """What an extra adds, and the command that installs it if it is incomplete."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    what = f"{extra} ({PURPOSES[extra]})" if extra in PURPOSES else extra
    if not missing:
        return f"{what}: {', '.join(found)}"
    verb = "is" if len(missing) == 1 else "are"
    return f"{what}: {', '.join(missing)} {verb} missing: pip install 'dapt[{extra}]'"


def _cuda(architectures: list[str]) -> str:
    built = f"kernels for {', '.join(architectures)}" if architectures else "no kernels built"
    if torch.version.cuda is None:
        return f"CUDA: {built}; this torch is built without CUDA"
    if not torch.cuda.is_available():
        return f"CUDA: {built}; torch has CUDA {torch.version.cuda} but finds no GPU"
    return f"CUDA: {built}; torch has CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
