"""Where the published files, and our own, keep the weights of a network."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """Where one kind of file keeps the entries of a network."""

    title: str
    network: str  # name in `create_backbone` of the network that such files are made for
    marks: tuple[str, ...]  # beginnings of keys by which the layout is known: all must occur
    renames: tuple[tuple[str, str], ...]  # regular expressions: the network's entry -> file's key
    reasons: tuple[tuple[str, str], ...] = ()  # file's key -> why it is left over
    fresh: Mapping[str, str] = field(default_factory=dict)  # network's entry -> why it is missing

    def matches(self, keys: Iterable[str]) -> bool:
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


_HEAD = (
    r"(cls_head_finetune|label_conv|propagation_\d|convs\d|bns\d)\.",
    "head of the task that it was fine-tuned for",
)
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
