"""The layouts of the published weight files and of our own."""

from collections.abc import Callable

from dapt.models.layout import Layout
from dapt.models.weight_files import State


def plain_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    """Renames from our plain transformer's entries to the keys of Point-MAE's files.

    Args:
        prefix: The prefix that all keys of the file share.
    """
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
    r"(blocks\.)?(cls_head_finetune|label_conv|propagation_\d|convs\d|bns\d)\.",
    "head of the fine-tuning task",
)
_DECODER = (
    r"mask_token|decoder_|MAE_decoder(_\w+)?\.|increase_dim(_\w+)?\.",
    "pre-training decoder",
)
_NO_CLASS_TOKEN = {name: "its pre-training has no class token" for name in ("cls_token", "cls_pos")}


def _has_square_positions(prefix: str) -> Callable[[State], bool]:
    """Whether the position embedding reads sines and cosines: its first layer is then square."""

    def check(state: State) -> bool:
        weight = state.get(f"{prefix}pos_embed.0.weight")
        return weight is not None and weight.shape[0] == weight.shape[1]

    return check


# The published files store a local module's two norms under a second name, too.
_FEMAE_NAMES = tuple((rf"\.cls\.conv{i}\.1\.", (f".cls.bn{i}.",)) for i in (1, 2))
_FEMAE_SECOND_NAMES = (r".*\.cls\.bn[12]\.", "second name of conv1.1 and conv2.1")
_FEMAE_LICENSE = "published without a license: all rights are reserved, ask the authors"


_PTV3_LICENSE = "CC-BY-NC-4.0, not for commercial use"
_PTV3_RENAMES = (
    (r"^embedding\.project", "embedding.stem.linear"),
    (r"^embedding\.norm", "embedding.stem.norm"),
    (r"^poolings\.0\.", "enc.enc1.down."),
    (r"^poolings\.1\.", "enc.enc2.down."),
    (r"^poolings\.2\.", "enc.enc3.down."),
    (r"^poolings\.3\.", "enc.enc4.down."),
    (r"\.down\.project", ".down.proj"),
    (r"\.down\.norm", ".down.norm.0"),
    (r"^scales\.(\d+)\.(\d+)", r"enc.enc\1.block\2"),
    (r"\.cpe\.conv", ".cpe.0"),
    (r"\.cpe\.project", ".cpe.1"),
    (r"\.cpe\.norm", ".cpe.2"),
    (r"\.norm([12])\.", r".norm\1.0."),
    (r"\.mlp\.", ".mlp.0."),
    (r"\.inv_freq", ".rope.inv_freq"),
)


def _femae_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"^local\.(\d+)\.norm\.", r"blocks.\1.cls_norm."),
        (r"^local\.(\d+)\.edge\.", r"blocks.\1.cls.conv1."),
        (r"^local\.(\d+)\.out\.", r"blocks.\1.cls.conv2."),
        *plain_renames(prefix),
    )


def _gpt_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    block = r"^blocks\.(\d+)\."
    return (
        (r"^tokenizer\.encoder\.(first|second)", r"encoder.\1_conv"),
        (r"^start_token", "blocks.sos"),
        (r"^start_pos", "sos_pos"),
        (r"^norm", "blocks.cls_norm"),
        (r"^last_norm", "blocks.ln_f"),
        (rf"{block}norm", r"blocks.layers.\1.ln_"),
        (rf"{block}attn\.qkv\.", r"blocks.layers.\1.attn.in_proj_"),
        (rf"{block}attn\.proj\.", r"blocks.layers.\1.attn.out_proj."),
        (rf"{block}mlp\.fc1\.", r"blocks.layers.\1.mlp.0."),
        (rf"{block}mlp\.fc2\.", r"blocks.layers.\1.mlp.2."),
        (r"^", prefix),
    )


def _recon_pp_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"^tokenizer\.encoder\.(first|second)", r"embed.\1_conv"),
        (r"^start_token", "encoder.sos"),
        (r"^start_pos", "encoder.sos_pos"),
        (r"^norm", "encoder.ln_f1"),
        (r"^blocks", "encoder.blocks.local_blocks"),
        (r"^query_blocks", "encoder.blocks.global_blocks"),
        (r"^query_norm", "encoder.ln_f2"),
        (r"^queries", "global_query"),
        (r"\.attn\.gamma", ".ls1.gamma"),
        (r"\.mlp\.gamma", ".ls2.gamma"),
        (r"^", prefix),
    )


_GPT_UNUSED = (
    r"(GPT_Transformer\.)?(generator_blocks|blocks\.increase_dim|norm)\.",
    "pre-training generator, and unused layers",
)

# More specific layouts come first: the first match wins.
LAYOUTS = (
    Layout(
        title="released DAPT model",
        network="point_mae",
        marks=(r"blocks\.blocks\.0\.Adapter_MLP\.",),
        renames=plain_renames(""),
        others=(
            (r"(.*\.)?(Adapter_MLP|tfts_)", "adapter: dapt.load_release loads the whole model"),
            _HEAD,
        ),
    ),
    Layout(
        title="Point-BERT pre-training",
        network="point_bert",
        marks=(r"transformer_q\.",),
        renames=plain_renames("transformer_q."),
        reasons=(
            (r"transformer_k\.", "momentum copy of the network"),
            (r"dvae\.", "pre-training tokenizer"),
            (r"queue", "pre-training memory queue"),
            (r"transformer_q\.(lm_head|cls_head|mask_token)", "pre-training heads"),
        ),
    ),
    Layout(
        title="ACT pre-training",
        network="act",
        marks=(r"ACT_encoder\.",),
        renames=plain_renames("ACT_encoder."),
        reasons=((r"(?!ACT_encoder\.)", "pre-training decoder and teacher"),),
    ),
    Layout(
        title="ReCon pre-training",
        network="recon",
        marks=(r"MAE_encoder\.", r"MAE_encoder\.img_token"),
        renames=plain_renames("MAE_encoder."),
        reasons=(
            (r"MAE_encoder\.(img|text)_(token|pos)", "contrastive branch"),
            (r"MAE_encoder\.blocks\.blocks\.\d+\.\w+_contrast\.", "contrastive branch"),
            _DECODER,
        ),
    ),
    Layout(
        title="Point-FEMAE pre-training",
        network="point_femae",
        marks=(r"MAE_encoder\.blocks\.blocks\.\d+\.cls\.",),
        renames=_femae_renames("MAE_encoder."),
        otherwise=_FEMAE_NAMES,
        reasons=(_FEMAE_SECOND_NAMES, _DECODER),
        license=_FEMAE_LICENSE,
    ),
    Layout(
        title="fine-tuned Point-FEMAE",
        network="point_femae",
        marks=(r"blocks\.blocks\.\d+\.cls\.", r"encoder\.first_conv\."),
        renames=_femae_renames(""),
        otherwise=_FEMAE_NAMES,
        reasons=(_FEMAE_SECOND_NAMES,),
        others=(_HEAD,),
        license=_FEMAE_LICENSE,
    ),
    Layout(
        title="PCP-MAE pre-training",
        network="pcp_mae",
        marks=(r"MAE_encoder\.",),
        like=_has_square_positions("MAE_encoder."),
        renames=plain_renames("MAE_encoder."),
        reasons=(
            (r"MAE_encoder\.mask_pos_token|pred_pos_proj\.", "pre-training decoder"),
            _DECODER,
        ),
        fresh=_NO_CLASS_TOKEN,
    ),
    Layout(
        title="fine-tuned PCP-MAE",
        network="pcp_mae",
        marks=(r"encoder\.first_conv\.", r"blocks\.blocks\."),
        like=_has_square_positions(""),
        renames=plain_renames(""),
        others=(_HEAD,),
    ),
    Layout(
        title="Point-MAE pre-training",
        network="point_mae",
        marks=(r"MAE_encoder\.",),
        renames=plain_renames("MAE_encoder."),
        reasons=(_DECODER,),
        fresh=_NO_CLASS_TOKEN,
    ),
    Layout(
        title="Point-M2AE pre-training",
        network="point_m2ae",
        marks=(r"h_encoder\.", r"h_encoder\.encoder_norms\."),
        renames=_m2ae(norm="h_encoder.encoder_norms.2"),
        reasons=(
            (r"h_encoder\.encoder_norms\.[01]\.", "norms that only the decoder reads"),
            (r"mask_token|h_decoder|decoder_|token_prop|rec_head", "pre-training decoder"),
        ),
    ),
    Layout(
        title="fine-tuned Point-M2AE",
        network="point_m2ae",
        marks=(r"h_encoder\.", r"norm\."),
        renames=_m2ae(norm="norm"),
        others=(_HEAD,),
    ),
    Layout(
        title="PointGPT pre-training",
        network="point_gpt_*",
        marks=(r"GPT_Transformer\.",),
        renames=_gpt_renames("GPT_Transformer."),
        reasons=(_GPT_UNUSED,),
        fresh=_NO_CLASS_TOKEN
        | dict.fromkeys(("norm.weight", "norm.bias"), "a norm in front of the class head"),
    ),
    Layout(
        title="fine-tuned PointGPT",
        network="point_gpt_*",
        marks=(r"blocks\.layers\.\d+\.", r"encoder\.first_conv\."),
        renames=_gpt_renames(""),
        reasons=(_GPT_UNUSED,),
        others=(_HEAD,),
    ),
    Layout(
        title="ReCon++ pre-training",
        network="recon_pp_*",
        marks=(r"model\.encoder\.blocks\.local_blocks\.",),
        renames=_recon_pp_renames("model."),
        reasons=(
            (r"model\.decoder|model\.norm\.", "pre-training decoder"),
            (r"(img|text)_proj\.", "projections to the space of images and text"),
        ),
        fresh={"cls_token": "its pre-training has no class token"},
    ),
    Layout(
        title="fine-tuned ReCon++",
        network="recon_pp_*",
        marks=(r"encoder\.blocks\.local_blocks\.",),
        renames=_recon_pp_renames(""),
        reasons=((r"decoder\.", "pre-training decoder"),),
        others=(_HEAD,),
    ),
    Layout(
        title="Uni3D",
        network="uni3d_*",
        marks=(r"point_encoder\.visual\.",),
        renames=(
            (r"^tokenizer\.encoder\.(first|second)", r"encoder.\1_conv"),
            (r"^tokenizer\.project", "encoder2trans"),
            (r"^blocks", "visual.blocks"),
            (r"^norm", "visual.fc_norm"),
            (r"^embedding", "trans2embed"),
            (r"^", "point_encoder."),
        ),
        otherwise=(
            (r"attn\.qkv\.weight$", tuple(f"attn.{part}_proj.weight" for part in "qkv")),
            (r"attn\.qkv\.bias$", ("attn.q_bias", None, "attn.v_bias")),
            (r"attn\.qkv\.bias$", ("attn.q_proj.bias", None, "attn.v_proj.bias")),
            (r"mlp\.fc1\.(weight|bias)$", (r"mlp.fc1_g.\1", r"mlp.fc1_x.\1")),
        ),
        reasons=(
            (
                r"point_encoder\.visual\.(cls_token|pos_embed|patch_embed|head)",
                "unused parts of the image network",
            ),
            (
                r"point_encoder\.trans2embed",
                "projection to the space of images and text: embed=True keeps it",
            ),
            (r"logit_scale", "pre-training temperature"),
        ),
    ),
    Layout(
        title="Sonata, Concerto or Utonia",
        network="ptv3_base",
        marks=(r"embedding\.stem\.linear\.", r"enc\.enc0\.block0\.cpe\.0\."),
        renames=_PTV3_RENAMES,
        reasons=(
            (r"embedding\.mask_token$", "pre-training token of hidden cells"),
            (
                r"dec\.|seg_head\.|cls_head\.",
                "decoder and head of a task",
            ),
        ),
        closed=True,
        license=_PTV3_LICENSE,
    ),
    Layout(
        title="dapt backbone",
        network="ptv3_base",
        marks=(r"embedding\.project\.", r"scales\.0\.0\.cpe\."),
        renames=(),
        closed=True,
    ),
    Layout(
        title="fine-tuned point transformer",
        network="point_mae",
        marks=(r"encoder\.first_conv\.", r"blocks\.blocks\."),
        renames=plain_renames(""),
        others=(_HEAD,),
    ),
    Layout(
        title="dapt pre-training",
        network="point_mae",
        marks=(r"backbone\.tokenizer\.", r"(decoder|classify)\."),
        renames=((r"^", "backbone."),),
        reasons=((r"(?!backbone\.)", "pre-training decoder or head"),),
        fresh=_NO_CLASS_TOKEN,
    ),
    Layout(
        title="dapt backbone",
        network="point_mae",
        marks=(r"tokenizer\.",),
        renames=(),
        reasons=((r"cls_(token|pos)$", "the network has no class token"),),
        fresh=_NO_CLASS_TOKEN,
        closed=True,
    ),
    Layout(
        title="dapt backbone",
        network="point_m2ae",
        marks=(r"scales\.",),
        renames=(),
        closed=True,
    ),
)

AUTOENCODER_LAYOUTS = (
    Layout(
        title="Point-MAE pre-training",
        network="point_mae",
        marks=(r"MAE_encoder\.", r"MAE_decoder\."),
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
        marks=(r"backbone\.tokenizer\.", r"(decoder|classify)\."),
        renames=(),
    ),
)
