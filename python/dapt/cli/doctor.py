"""`dapt doctor`: what is installed, what is missing for what, and which kernels run here."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import dapt_ext
from dapt.cli.parsing import Parser

NEEDED_FOR = {
    "safetensors": "adapter files",
    "jsonargparse": "the command line",
    "lightning-fabric": "training",
    "filelock": "converting datasets",
    "h5py": "ScanObjectNN",
    "rich": "the progress bar",
    "tensorboard": "TensorBoard events",
    "trimesh": "ply, off and obj files",
    "laspy": "las files",
    "matplotlib": "charts",
}


def run(argv: list[str]) -> None:
    Parser("doctor", "Say what is installed, and what is missing for what.").parse_args(argv)
    print("\n".join(lines()))


def lines() -> list[str]:
    build = dapt_ext.build_info()
    told = [
        f"python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}",
        f"kernels: dapt_ext {build['version']}, {build['compiler']}",
        f"CPU: {', '.join(build['cpu_instruction_sets'])}; "
        f"in use: {build['cpu_instruction_set_in_use']}; {torch.get_num_threads()} threads",
        _cuda(build["cuda_architectures"]),
    ]
    for package, purpose in NEEDED_FOR.items():
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            told.append(f"{package} is missing, needed for {purpose}: pip install {package}")
    return told


def _cuda(architectures: list[str]) -> str:
    built = f"kernels for {', '.join(architectures)}" if architectures else "no kernels built"
    if torch.version.cuda is None:
        return f"CUDA: {built}; this torch is built without CUDA"
    if not torch.cuda.is_available():
        return f"CUDA: {built}; torch has CUDA {torch.version.cuda} and finds no GPU"
    return f"CUDA: {built}; torch has CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
