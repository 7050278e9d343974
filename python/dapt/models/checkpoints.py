"""Published weights in, with a full account of what happened to each of them.

A file's layout is recognised by the keys that it holds, never by its name.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from dapt.errors import DaptError

State = dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    source: str
    layout: str
    loaded: tuple[str, ...]  # entries of the network
    left_over: dict[str, str]  # key of the file -> why it was not used
    fresh: dict[str, str]  # entry of the network that such files do not hold -> what it is now

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.layout}, {len(self.loaded)} tensors loaded"]
        for title, entries in (("left over", self.left_over), ("not in the file", self.fresh)):
            counts = Counter(entries.values())
            lines += [f"  {title}: {count} ({reason})" for reason, count in counts.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Layout:
    """Where one kind of file keeps the entries of a network."""

    title: str
    network: str  # name in `create_backbone` of the network that such files are made for
    marks: tuple[str, ...]  # beginnings of keys by which the layout is known: all must occur
    renames: tuple[tuple[str, str], ...]  # regular expressions: the network's entry -> file's key
    reasons: tuple[tuple[str, str], ...] = ()  # file's key -> why it is left over
    fresh: Mapping[str, str] = field(default_factory=dict)  # network's entry -> why it is missing

    def matches(self, keys: list[str]) -> bool:
        return all(any(key.startswith(mark) for key in keys) for mark in self.marks)

    def key(self, entry: str) -> str:
        for pattern, replacement in self.renames:
            entry = re.sub(pattern, replacement, entry)
        return entry

    def reason(self, key: str) -> str | None:
        return next((why for pattern, why in self.reasons if re.match(pattern, key)), None)


def plain_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"^tokenizer\.encoder\.(first|second)", r"encoder.\1_conv"),
        (r"^tokenizer\.project", "reduce_dim"),
        (r"^blocks", "blocks.blocks"),
        (r"^", prefix),
    )


def _m2ae(norm: str) -> tuple[tuple[str, str], ...]:
    return (
        (
            r"^scales\.(\d+)\.tokenizer\.encoder\.(first|second)",
            r"h_encoder.token_embed.\1.\2_conv",
        ),
        (r"^scales\.(\d+)\.pos_embed", r"h_encoder.encoder_pos_embeds.\1"),
        (r"^scales\.(\d+)\.blocks", r"h_encoder.encoder_blocks.\1.blocks"),
        (r"^norm", norm),
    )


_HEAD = (r"cls_head_finetune\.", "classification head of another task")
_DECODER = (r"mask_token|decoder_|MAE_decoder\.|increase_dim\.", "decoder of the pre-training")

# More special layouts come first: the first that matches is taken.
LAYOUTS = (
    Layout(
        title="released DAPT model",
        network="point_mae",
        marks=("blocks.blocks.0.Adapter_MLP.",),
        renames=plain_renames(""),
        reasons=(
            (r"(.*\.)?(Adapter_MLP|tfts_)", "adapter: dapt.load_release opens the whole model"),
            _HEAD,
        ),
    ),
    Layout(
        title="Point-BERT pre-training",
        network="point_bert",
        marks=("transformer_q.",),
        renames=plain_renames("transformer_q."),
        reasons=(
            (r"transformer_k\.", "momentum copy of the network"),
            (r"dvae\.", "tokenizer of the pre-training"),
            (r"queue", "memory queue of the pre-training"),
            (r"transformer_q\.(lm_head|cls_head|mask_token)", "heads of the pre-training"),
        ),
    ),
    Layout(
        title="ACT pre-training",
        network="act",
        marks=("ACT_encoder.",),
        renames=plain_renames("ACT_encoder."),
        reasons=((r"(?!ACT_encoder\.)", "decoder and teacher of the pre-training"),),
    ),
    Layout(
        title="ReCon pre-training",
        network="recon",
        marks=("MAE_encoder.", "MAE_encoder.img_token"),
        renames=plain_renames("MAE_encoder."),
        reasons=(
            (r"MAE_encoder\.(img|text)_(token|pos)", "contrastive branch"),
            (r"MAE_encoder\.blocks\.blocks\.\d+\.\w+_contrast\.", "contrastive branch"),
            _DECODER,
        ),
    ),
    Layout(
        title="Point-MAE pre-training",
        network="point_mae",
        marks=("MAE_encoder.",),
        renames=plain_renames("MAE_encoder."),
        reasons=(_DECODER,),
        fresh={name: "its pre-training has no class token" for name in ("cls_token", "cls_pos")},
    ),
    Layout(
        title="Point-M2AE pre-training",
        network="point_m2ae",
        marks=("h_encoder.", "h_encoder.encoder_norms."),
        renames=_m2ae(norm="h_encoder.encoder_norms.2"),
        reasons=(
            (r"h_encoder\.encoder_norms\.[01]\.", "norms that only the decoder reads"),
            (r"mask_token|h_decoder|decoder_|token_prop|rec_head", "decoder of the pre-training"),
        ),
    ),
    Layout(
        title="fine-tuned Point-M2AE",
        network="point_m2ae",
        marks=("h_encoder.", "norm."),
        renames=_m2ae(norm="norm"),
        reasons=(_HEAD,),
    ),
    Layout(
        title="fine-tuned point transformer",
        network="point_mae",
        marks=("encoder.first_conv.", "blocks.blocks."),
        renames=plain_renames(""),
        reasons=(_HEAD,),
    ),
    Layout(
        title="dapt pre-training",
        network="point_mae",
        marks=("backbone.tokenizer.", "decoder."),
        renames=((r"^", "backbone."),),
        reasons=((r"(?!backbone\.)", "decoder of the pre-training"),),
        fresh={name: "its pre-training has no class token" for name in ("cls_token", "cls_pos")},
    ),
    Layout(
        title="dapt backbone",
        network="point_mae",
        marks=("tokenizer.",),
        renames=(),
        fresh={name: "its pre-training has no class token" for name in ("cls_token", "cls_pos")},
    ),
    Layout(title="dapt backbone", network="point_m2ae", marks=("scales.",), renames=()),
)

AUTOENCODER_LAYOUTS = (
    Layout(
        title="Point-MAE pre-training",
        network="point_mae",
        marks=("MAE_encoder.", "MAE_decoder."),
        renames=(
            (r"^backbone\.tokenizer\.encoder\.(first|second)", r"MAE_encoder.encoder.\1_conv"),
            (r"^backbone\.blocks", "MAE_encoder.blocks.blocks"),
            (r"^backbone\.", "MAE_encoder."),
            (r"^decoder\.", "MAE_decoder."),
            (r"^rebuild\.", "increase_dim.0."),
        ),
    ),
    Layout(
        title="dapt pre-training",
        network="point_mae",
        marks=("backbone.tokenizer.", "decoder."),
        renames=(),
    ),
)

# Left-over keys of these parts mean that the network is too small for the file.
_NETWORK_PARTS = re.compile(
    r"(\w+_encoder\.|transformer_q\.|backbone\.)?"
    r"(encoder|reduce_dim|pos_embed|blocks|norm|token_embed|encoder_\w+|tokenizer|scales)\."
)


def load_weights(
    network: nn.Module, path: str | os.PathLike, layouts: tuple[Layout, ...] = LAYOUTS
) -> LoadReport:
    """Fill ``network`` from a checkpoint of any known layout, or change nothing and say why."""
    source = os.fspath(path)
    state = read_state(path)
    layout = find_layout(state, layouts, source)
    weights, left_over, fresh = {}, dict.fromkeys(state), {}
    for entry, target in network.state_dict().items():
        key = layout.key(entry)
        if key in state:
            weights[entry] = _fit(state[key], target, key, layout, source)
            del left_over[key]
        elif entry in layout.fresh:
            weights[entry] = target
            fresh[entry] = layout.fresh[entry]
        else:
            raise DaptError(f"{source}: '{key}' is missing{_made_for(layout)}")

    for key in left_over:
        left_over[key] = layout.reason(key)
        if left_over[key] is None and _NETWORK_PARTS.match(key):
            raise DaptError(f"{source}: the network has no place for '{key}'{_made_for(layout)}")
    network.load_state_dict(weights)
    return LoadReport(
        source=source,
        layout=layout.title,
        loaded=tuple(entry for entry in weights if entry not in fresh),
        left_over={key: why or "not a part of the network" for key, why in left_over.items()},
        fresh=fresh,
    )


def find_layout(state: State, layouts: tuple[Layout, ...], source: str) -> Layout:
    keys = list(state)
    for layout in layouts:
        if layout.matches(keys):
            return layout
    known = ", ".join(dict.fromkeys(layout.title for layout in layouts))
    raise DaptError(f"{source}: no known layout has keys like '{keys[0]}'; known are: {known}")


def _fit(tensor: Tensor, target: Tensor, key: str, layout: Layout, source: str) -> Tensor:
    if tensor.shape == (*target.shape, 1):  # a 1x1 convolution is a linear layer
        tensor = tensor.squeeze(-1)
    if tensor.shape != target.shape:
        raise DaptError(
            f"{source}: '{key}' is {list(tensor.shape)} and the network needs "
            f"{list(target.shape)}{_made_for(layout)}"
        )
    return tensor


def _made_for(layout: Layout) -> str:
    return f" (the file looks like {layout.title}, for the network '{layout.network}')"


def read_state(path: str | os.PathLike) -> State:
    """The tensors of a .pth or safetensors file, without the prefix that DDP adds to their names.

    Nothing but tensors, numbers, strings and plain containers is ever unpickled.
    """
    source = os.fspath(path)
    content = _read_safetensors(source) if _is_safetensors(source) else _read_pth(source)
    for wrapper in ("base_model", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = content.items() if isinstance(content, Mapping) else ()
    state = {
        re.sub(r"^(module\.)?(base_model\.)?", "", key): value
        for key, value in tensors
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        raise DaptError(f"{source} holds no weights: wanted tensors by name, bare or 'base_model'")
    return state


def _is_safetensors(source: str) -> bool:
    try:
        with open(source, "rb") as file:
            return file.read(9)[8:] == b"{"  # eight bytes of length, then a JSON header
    except OSError as error:
        raise DaptError(f"{source} cannot be read: {error.strerror}") from None


def _read_safetensors(source: str) -> State:
    try:
        return safetensors.torch.load_file(source)
    except Exception as error:
        raise DaptError(f"{source} is not a whole safetensors file: {error}") from None


def _read_pth(source: str) -> object:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can fail in any way
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise DaptError(
                f"{source} is refused: it asks for '{wanted[1]}', and a checkpoint may hold only "
                "tensors and plain values"
            ) from None
        raise DaptError(f"{source} is not a whole checkpoint of torch.save") from None


def _numpy_scalars() -> list[Callable | tuple[Callable, str]]:
    """The published files keep their accuracies as numpy numbers."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    number_types = [type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8")]
    return [*((scalar, name) for name in names), np.dtype, *number_types]
