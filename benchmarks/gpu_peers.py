"""Builds the CUDA code that ours is timed against, from sources in peers/, into peers/site.

    python benchmarks/gpu_peers.py

Each is built where its repository lies in peers/ under its own name: pointnet2_ops_lib (the folder
of Pointnet2_PyTorch), KNN_CUDA, pytorch3d, pytorch_cluster. Only the parts that are timed are
compiled, all at once, with the flags of their own build files; those name GPUs that nvcc no longer
knows, or compile for half an hour. Their kernels are as published.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.cpp_extension import load

PEERS = Path(__file__).parents[1] / "peers"
SITE = PEERS / "site"
PYTORCH3D = """
#include <torch/extension.h>
#include "ball_query/ball_query.h"
#include "knn/knn.h"
#include "sample_farthest_points/sample_farthest_points.h"
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("knn_points_idx", &KNearestNeighborIdx);
  m.def("knn_points_backward", &KNearestNeighborBackward);
  m.def("ball_query", &BallQuery);
  m.def("sample_farthest_points", &FarthestPointSampling);
}
"""
TORCH_CLUSTER = """
from pathlib import Path
import torch
for stem in ("_fps_cuda", "_knn_cuda"):
    torch.ops.load_library(str(Path(__file__).with_name(stem + ".so")))
from .fps import fps
from .knn import knn
"""


def build_pointnet2_ops() -> None:
    """As its setup.py does, for this GPU."""
    package = take("pointnet2_ops_lib/pointnet2_ops")
    source = package / "_ext-src"
    flags = {"extra_cflags": ["-O3"], "extra_cuda_cflags": ["-O3"]}
    compile_into(package, "_ext", source.glob("src/*.c*"), [source / "include"], **flags)


def build_knn_cuda() -> None:
    """It compiles itself when it is imported."""
    package = take("KNN_CUDA/knn_cuda")
    binding = package / "csrc" / "cuda" / "knn.cpp"
    binding.write_text(binding.read_text().replace(".data<", ".data_ptr<"))  # torch has no data
    subprocess.run([sys.executable, "-c", "import knn_cuda"], cwd=SITE, check=True)


def build_pytorch3d() -> None:
    """Sampling, neighbors and ball query alone."""
    package = take("pytorch3d/pytorch3d")
    source = package / "csrc"
    (source / "ext.cpp").write_text(PYTORCH3D)
    (package / "ops" / "__init__.py").write_text(
        "from .ball_query import ball_query\nfrom .knn import knn_points\n"
        "from .sample_farthest_points import sample_farthest_points\n"
    )
    parts = ("ball_query", "knn", "sample_farthest_points")
    files = [source / "ext.cpp", *(file for part in parts for file in source.glob(f"{part}/*.c*"))]
    flags = ["-O3", "-DWITH_CUDA"]
    compile_into(package, "_C", files, [source], extra_cflags=flags, extra_cuda_cflags=flags)


def build_torch_cluster() -> None:
    """Sampling and neighbors alone."""
    package = take("pytorch_cluster/torch_cluster")
    source = PEERS / "pytorch_cluster" / "csrc"
    init = package / "__init__.py"
    version = next(line for line in init.read_text().splitlines() if "__version__" in line)
    init.write_text(f"{TORCH_CLUSTER}\n{version}\n")
    for op in ("fps", "knn"):
        files = [source / f"{op}.cpp", source / f"cpu/{op}_cpu.cpp", source / f"cuda/{op}_cuda.cu"]
        flags = ["-O2", "-DWITH_CUDA"]
        cuda = [*flags, "--expt-relaxed-constexpr"]
        compile_into(
            package, f"_{op}_cuda", files, [source], extra_cflags=flags, extra_cuda_cflags=cuda
        )


def take(package: str) -> Path:
    """A copy of `package` in peers/site."""
    target = SITE / Path(package).name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(PEERS / package, target)
    return target


def compile_into(package: Path, name: str, files, include, **flags) -> None:
    """`name`.so in `package` of C++ and CUDA `files`."""
    folder = package / f"build{name}"
    folder.mkdir()
    load(
        name, [str(file) for file in files], build_directory=str(folder),
        extra_include_paths=[str(path) for path in include], is_python_module=False, **flags,
    )  # fmt: skip
    shutil.move(folder / f"{name}.so", package)


BUILDS = {
    "pointnet2_ops_lib": build_pointnet2_ops,
    "KNN_CUDA": build_knn_cuda,
    "pytorch3d": build_pytorch3d,
    "pytorch_cluster": build_torch_cluster,
}


def main() -> None:
    if len(sys.argv) > 1:
        return BUILDS[sys.argv[1]]()
    if not torch.cuda.is_available():
        sys.exit("gpu_peers.py needs a GPU and a torch with CUDA; this torch finds none")
    SITE.mkdir(parents=True, exist_ok=True)
    found = [name for name in BUILDS if (PEERS / name).is_dir()]
    running = {name: subprocess.Popen([sys.executable, __file__, name]) for name in found}
    failed = [name for name, process in running.items() if process.wait()]
    print(f"built {', '.join(name for name in found if name not in failed) or 'none'} in {SITE}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
