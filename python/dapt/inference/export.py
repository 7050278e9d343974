"""Export models to run elsewhere: as a package of torch's compiler, or as ONNX."""

import copy
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dapt.adapters import AdaptedModel
from dapt.adapters.attachment import Attachment
from dapt.errors import UsageError, look_up, missing_package
from dapt.files import write_atomically
from dapt.inference.plain_ops import decompositions
from dapt.methods.method import is_packed
from dapt.version import __version__
from dapt_ext._library import ops

FORMATS = ("pt2", "onnx")
OPSET = 18  # the ONNX opset into which torch translates its ops
EXAMPLE = (2, 1024)  # clouds and points of the traced example, unless num_points is given


@torch.no_grad()
def export(
    model: AdaptedModel,
    path: str | os.PathLike,
    format: str | None = None,
    num_points: int | None = None,
) -> Path:
    """Export the model with its active adapter, folded into the network as far as possible.

    The exported program takes the same input as `model(points)`, in float32, with any number of
    clouds; a part segmentation model also takes `categories`, int64 [B]. The model is unchanged.

    Args:
        model: The model, in any mode; the file contains its evaluation behavior.
        path: The file to write.
        format: "pt2" is compiled for this kind of machine and runs from Python and C++ with torch
            and `dapt_ext` installed; "onnx" runs in any ONNX runtime. The default is the path's
            suffix.
        num_points: A fixed number of points per cloud. By default clouds may have any number of
            points, equal within a call.
    """
    path = Path(path)
    format = path.suffix.removeprefix(".") if format is None else format
    look_up("format", format, dict.fromkeys(FORMATS))
    program, notes = traced(model, num_points), _notes(model.adapter, num_points)
    content = _pt2(program, notes) if format == "pt2" else _onnx(program, notes)
    write_atomically(path, content)
    return path


class Exported(nn.Module):
    """The forward pass of a model, without its means to train, switch and save adapters.

    Args:
        adapter: The adapter of the model.
    """

    def __init__(self, adapter: Attachment):
        super().__init__()
        self.network = adapter.network
        self.head = copy.deepcopy(adapter.head)  # so that the model's own head keeps its mode
        self.method = adapter.method
        self.eval()

    def forward(self, points: Tensor, categories: Tensor | None = None) -> Tensor:
        features = self.method.features(self.network, points, self.head.levels)
        given = () if categories is None else (categories,)
        return self.head(features, points[..., :3], *given)


@torch.no_grad()
def traced(model: AdaptedModel, num_points: int | None = None) -> torch.export.ExportedProgram:
    """The model's program for any number of clouds, as the formats are written from it.

    Args:
        model: The model, as in `export`.
        num_points: As in `export`.
    """
    adapter = model.adapter if model.is_merged else model.adapter.folded()
    network = adapter.network
    if is_packed(network):
        raise UsageError(
            f"a {type(network).__name__} cannot be exported: how many tokens it makes depends on "
            "the points themselves"
        )
    first = network.tokenizers[0]
    least = max(first.num_groups, first.group_size)
    if num_points is not None and num_points < least:
        raise UsageError(f"num_points must be at least {least} for this network, got {num_points}")
    device = next(network.parameters()).device
    B, N = EXAMPLE[0], num_points or max(EXAMPLE[1], least + 1)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(B, N, 3, generator=generator).to(device)]
    any_size = torch.export.Dim.DYNAMIC
    points = {0: any_size} if num_points else {0: any_size, 1: any_size}
    shapes = {"points": points}
    if getattr(adapter.head, "num_categories", 0):
        inputs.append(torch.zeros(B, dtype=torch.int64, device=device))
        shapes["categories"] = {0: any_size}
    else:
        shapes["categories"] = None
        inputs.append(None)
    return torch.export.export(Exported(adapter), tuple(inputs), dynamic_shapes=shapes)


def _notes(adapter: Attachment, num_points: int | None) -> dict[str, str]:
    """The metadata of the file."""
    ready = adapter.preprocessing
    return {
        "preprocessing": json.dumps(None if ready is None else dataclasses.asdict(ready)),
        "written_by": f"dapt {__version__}",
        "method": adapter.method.name,
        "task": adapter.task.name,
        "labels": json.dumps(adapter.task.label_names),
        "num_points": "any" if num_points is None else str(num_points),
    }


def _pt2(program: torch.export.ExportedProgram, notes: Mapping[str, str]) -> bytes:
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UsageError(
            'pt2 needs a C++ compiler: install one, such as g++, or use format "onnx"'
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        made = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder) / "model.pt2"),
            inductor_configs={
                "aot_inductor.metadata": dict(notes),
                "cpp.dynamic_threads": True,  # as many as where it runs, not as here
            },
        )
        return Path(made).read_bytes()


def _onnx(program: torch.export.ExportedProgram, notes: Mapping[str, str]) -> bytes:
    try:
        import onnx

        from dapt.inference.onnx_fps import fps
    except ImportError as error:
        raise UsageError(f"onnx needs {missing_package(error)}") from None
    made = torch.onnx.export(
        program.run_decompositions(decompositions()),
        dynamo=True,
        opset_version=OPSET,
        output_names=["logits"],
        verbose=False,
        optimize=False,  # onnxscript drops an addend of 1e-8; runtimes optimize anyway
        custom_translation_table={ops.fps.default: fps},
    )
    made.model.metadata_props.update(notes)
    buffer = io.BytesIO()
    onnx.save(made.model_proto, buffer)
    return buffer.getvalue()
