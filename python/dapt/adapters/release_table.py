"""The kinds of released files: which model is in one, and under which keys it keeps it.

A new kind is an entry of `KINDS`, and nothing else. Where the backbone's keys are is told in
`dapt.models.layouts`; an entry here adds those of the method.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from dapt.adapters.release_file import (
    HEAD,
    BackboneConfig,
    ReleasedFile,
    femae_backbone,
    gpt_backbone,
    m2ae_backbone,
    plain_backbone,
    recon_pp_backbone,
    task_of,
)
from dapt.errors import look_up
from dapt.methods.dapt import Dapt
from dapt.methods.full import Full
from dapt.methods.ga_prompt import GaPrompt
from dapt.methods.idpt import Idpt
from dapt.methods.method import Method
from dapt.methods.point_gst import PointGst
from dapt.methods.point_lora import PointLora
from dapt.methods.ppt import Ppt
from dapt.methods.stag import Stag
from dapt.models.layouts import LAYOUTS, Layout
from dapt.tasks import Task

Pairs = tuple[tuple[str, str], ...]

CLASSIFIER_RENAMES = ((r"^head\.layers\.", f"{HEAD}."),)
SEGMENTATION_RENAMES = (
    (r"^head\.category\.", "label_conv."),
    (r"^head\.near\.", "propagation_0.mlp_convs.0."),
    (r"^head\.spread\.0\.", "propagation_0.mlp_bns.0."),
    (r"^head\.spread\.2\.", "propagation_0.mlp_convs.1."),
    (r"^head\.spread\.3\.", "propagation_0.mlp_bns.1."),
    (r"^head\.mix\.", "convs1."),
    (r"^head\.layers\.0\.", "bns1."),
    (r"^head\.layers\.3\.", "convs2."),
    (r"^head\.layers\.4\.", "bns2."),
    (r"^head\.layers\.6\.", "convs3."),
)


@dataclass(frozen=True)
class Kind:
    """One kind of released file.

    Args:
        name: what a config names as `method`; None for a fully fine-tuned model.
        title: what such a file is called.
        marks: regular expressions that each match the beginning of a key; by them a file is
            recognized whose config names no method.
        method: reads the method, with the settings that the file was trained with.
        backbone: reads the backbone's config.
        like: title of the layout of the same backbone without the method.
        renames: from that layout's keys to the file's, where the method adds or moves some.
        reasons: patterns of further keys that the model has no use for, and why.
        head: the kind of a classifier's head.
        head_dropout: its dropout.
    """

    name: str | None
    title: str
    marks: tuple[str, ...]
    method: Callable[[ReleasedFile], Method]
    backbone: Callable[[ReleasedFile], BackboneConfig] = plain_backbone
    like: str = "fine-tuned point transformer"
    renames: Pairs = ()
    reasons: Pairs = ()
    head: str = "point_mae"
    head_dropout: float = 0.5

    def matches(self, file: ReleasedFile) -> bool:
        """Whether a file is of this kind: by the method that its config names, or else by its keys.

        Args:
            file: as released.
        """
        named = file.settings.get("method")
        if named is not None:
            return named == self.name
        return all(any(re.match(mark, key) for key in file.state) for mark in self.marks)

    def task(self, file: ReleasedFile) -> Task:
        """The task that the file's head was trained for.

        Args:
            file: as released.
        """
        return task_of(file, self.head, self.head_dropout)

    def layout(self, task: Task) -> Layout:
        """The layout of the whole model: of the adapted backbone and the head.

        Args:
            task: that the head was trained for.
        """
        like = _layout(self.like)
        renames = (
            (r"\.frozen\.", "."),
            (r"^backbone\.", ""),
            *(SEGMENTATION_RENAMES if task.labels_points else CLASSIFIER_RENAMES),
            *like.renames,
            *self.renames,
        )
        reasons = (*self.reasons, *like.reasons)
        whole = {"marks": (), "others": (), "closed": True}
        return dataclasses.replace(
            like, title=self.title, renames=renames, reasons=reasons, **whole
        )


def _layout(title: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.title == title)


def _dapt(file: ReleasedFile) -> Dapt:
    tokens = file.settings.get("head_tokens") or _dapt_head_tokens(file)
    rank = file.size("blocks.blocks.0.Adapter_MLP.down_proj.weight", 0)
    return Dapt(rank=rank, head_tokens=tokens)


def _dapt_head_tokens(file: ReleasedFile) -> list[str]:
    tokens = ["cls"] if file.setting("class_token", "use") == "use" else []
    for kind in ("prompt", "patch"):
        how = file.settings.get(f"{kind}_token")
        if how in ("mean", "max"):
            tokens.append(f"{kind}:{how}")
    return tokens


def _point_gst(file: ReleasedFile) -> PointGst:
    rank = file.size("blocks.blocks.0.gft_adapter.down.weight", 0)
    return PointGst(rank=rank, local=file.setting("local", 32))


def _point_lora(file: ReleasedFile) -> PointLora:
    said = file.settings.get("pointlora")
    if said is None:
        return PointLora(prompted=128, published=True)
    return PointLora(
        rank=said["rank"],
        alpha=said["alpha"],
        bottleneck=said["bottleneck"],
        groups=(said["groups1"], said["groups2"]),
        sizes=(said["size1"], said["size2"]),
        select=(said["select1"], said["select2"]),
        mask_weight=said["mask_weight"],
        prompted=said["prompted"],
        published=True,
    )


def _ppt(file: ReleasedFile) -> Ppt:
    return Ppt(
        prompts=file.setting("prompt_num_group"),
        prompt_size=file.setting("prompt_group_size"),
        rank=file.size("blocks.prompt_mlp.0.weight", 0),
    )


def _stag(file: ReleasedFile) -> Stag:
    size = "large" if file.settings.get("stag_size") == 1 else "standard"
    said = file.settings.get("stag")
    if said is None:
        return Stag(size=size)
    return Stag(
        size=size,
        first=said["graph_blocks"][0],
        share_down=said["share_down"],
        share_graph=said["share_graph"],
        rank=said["rank"],
        neighbors=said["neighbours"],
    )


def _ga_prompt(file: ReleasedFile) -> GaPrompt:
    names = ("perturbation", "prompt_depth", "factor", "propagation_type", "interpolate_neighbors")
    defaults = (0.8, 6, 5.0, "permutation_after_attention", 32)
    values = [file.setting(*pair) for pair in zip(names, defaults, strict=True)]
    perturbation, prompt_depth, factor, propagation, interpolate_from = values
    return GaPrompt(
        prompts=file.size("prompt_cor", 0),
        prompt_depth=prompt_depth,
        point_prompts=file.size("point_prompt.points", 1),
        factor=factor,
        perturbation=perturbation,
        propagation=propagation,
        rank=file.size("blocks.blocks.0.adapter.ln1.weight", 0),
        interpolate_from=interpolate_from,
        published=not file.settings.get("aligned", False),
    )


_IDPT_TOKENS = {
    "all": ("cls", "prompt:mean", "patch:max"),
    "promptcls": ("cls", "prompt:mean"),
    "promptonly": ("prompt:mean",),
    "pointcls": ("cls", "patch:max"),
}


def _idpt(file: ReleasedFile) -> Idpt:
    return Idpt(
        prompt_layer=file.setting("prompt_layer"),
        edge_convs=sum(f"blocks.cls.conv{i}.0.weight" in file.state for i in (1, 2, 3)),
        neighbors=file.setting("neighbours", 20),
        head_tokens=look_up("cls_type", file.setting("cls_type", "all"), _IDPT_TOKENS),
    )


_HEAD = rf"{HEAD}\.|convs3\."


def _fine_tuned(
    title: str,
    backbone: Callable[[ReleasedFile], BackboneConfig],
    head: str = _HEAD,
    renames: Pairs = (),
) -> Kind:
    """A model that was trained as a whole: the backbone of a layout, and a head."""
    return Kind(
        name=None,
        title=title,
        marks=(*_layout(title).marks, head),
        method=lambda file: Full(),
        backbone=backbone,
        like=title,
        renames=renames,
    )


_BLOCK = r"^(blocks\.blocks\.\d+)\."
_GRAPH = r"^blocks\.blocks\.side\.graphs\.(\d+)\."
_MLP_RENAMES = (
    (r"^(blocks\.prompt_\w*mlp)\.down\.", r"\1.0."),
    (r"^(blocks\.prompt_\w*mlp)\.up\.", r"\1.2."),
)

KINDS = (
    Kind(
        name="dapt",
        title="released DAPT model",
        marks=_layout("released DAPT model").marks,
        method=_dapt,
        renames=(
            (rf"{_BLOCK}norm([12])\.(scale|shift)$", r"\1.tfts_\3_\2"),
            (rf"{_BLOCK}prompt\.(scale|shift)$", r"\1.tfts_\2_3"),
            (rf"{_BLOCK}(attn)\.qkv\.(scale|shift)$", r"\1.\2.tfts_\3_1"),
            (rf"{_BLOCK}(attn)\.proj\.(scale|shift)$", r"\1.\2.tfts_\3_2"),
            (rf"{_BLOCK}(mlp)\.fc([12])\.(scale|shift)$", r"\1.\2.tfts_\4_\3"),
            (r"^reduce_dim\.(scale|shift)$", r"tfts_\1_1"),
            (r"^norm\.(scale|shift)$", r"tfts_\1_2"),
            (r"tfts_scale_", "tfts_gamma_"),
            (r"tfts_shift_", "tfts_beta_"),
            (rf"{_BLOCK}adapter\.norm\.", r"\1.Adapter_MLP.adapter_layer_norm_before."),
            (rf"{_BLOCK}adapter\.scale\.", r"\1.Adapter_MLP.scale."),
            (rf"{_BLOCK}adapter\.(down|up)\.", r"\1.Adapter_MLP.\2_proj."),
        ),
    ),
    Kind(
        name="pointgst",
        title="released PointGST model",
        marks=(r"blocks\.blocks\.0\.gft_adapter\.",),
        method=_point_gst,
        renames=(
            (r"^blocks\.blocks\.adapters\.(\d+)\.", r"blocks.blocks.\1.gft_adapter."),
            (r"\.gft_adapter\.mix\.", ".gft_adapter.adapt1."),
            (r"\.gft_adapter\.norm_whole\.", ".gft_adapter.norm_ly1."),
            (r"\.gft_adapter\.norm_runs\.", ".gft_adapter.norm_ly2."),
        ),
    ),
    Kind(
        name="pointlora",
        title="released PointLoRA model",
        marks=(r"lora_mask_predictor\.",),
        method=_point_lora,
        renames=(
            (rf"{_BLOCK}attn\.(qkv|proj)\.lora_down$", r"\1.attn.\2.lora_A"),
            (rf"{_BLOCK}attn\.(qkv|proj)\.lora_up$", r"\1.attn.\2.lora_B"),
            (rf"{_BLOCK}attn\.(qkv|proj)\.mix$", r"\1.attn.\2.weight"),
            (r"^blocks\.blocks\.choice\.inner\.", "lora_mask_predictor.fc1."),
            (r"^blocks\.blocks\.choice\.outer\.", "lora_mask_predictor.fc2."),
            (r"^blocks\.blocks\.adapters\.patches\.", "blocks.prompt_mlp."),
            (r"^blocks\.blocks\.adapters\.chosen\.", "blocks.prompt_pos_mlp."),
            (r"^blocks\.blocks\.adapters\.(qkv|proj)\.", r"blocks.prompt_\1_mlp."),
            *_MLP_RENAMES,
        ),
    ),
    Kind(
        name="ppt",
        title="released PPT model",
        marks=(r"blocks\.prompt_all_mlp\.",),
        method=_ppt,
        head="ppt",
        renames=(
            (r"^blocks\.blocks\.adapters\.patches\.", "blocks.prompt_mlp."),
            (r"^blocks\.blocks\.adapters\.prompts\.", "blocks.prompt_pos_mlp."),
            (r"^blocks\.blocks\.adapters\.all\.", "blocks.prompt_all_mlp."),
            *_MLP_RENAMES,
        ),
    ),
    Kind(
        name="stag",
        title="released STAG model",
        marks=(r"blocks\.addparam_",),
        method=_stag,
        renames=(
            (r"^blocks\.blocks\.side\.downs\.(\d+)\.", r"blocks.addparam_downproj_dict.\1.0."),
            (rf"{_GRAPH}center\.", r"blocks.addparam_graphconv1_dict.\1.0."),
            (rf"{_GRAPH}neighbor\.", r"blocks.addparam_graphconv2_dict.\1.0."),
            (rf"{_GRAPH}mix\.", r"blocks.addparam_fc_dict.\1.0."),
            (rf"{_GRAPH}up\.", r"blocks.addparam_upproj_dict.\1.0."),
        ),
    ),
    Kind(
        name="gaprompt",
        title="released GAPrompt model",
        marks=(r"shift_net\.",),
        method=_ga_prompt,
        head_dropout=0.6,
        renames=(
            (r"^blocks\.blocks\.adapters\.(\d+)\.", r"blocks.blocks.\1."),
            (rf"{_BLOCK}prompts$", r"\1.prompt_embeddings"),
            (rf"{_BLOCK}norm\.", r"\1.out_transform.0."),
            (rf"{_BLOCK}bottleneck\.norm\.", r"\1.adapter.layer_norm."),
            (rf"{_BLOCK}bottleneck\.down\.", r"\1.adapter.ln1."),
            (rf"{_BLOCK}bottleneck\.up\.", r"\1.adapter.ln2."),
            (rf"{_BLOCK}unused\.scale\.", r"\1.adapter.scale."),
            (rf"{_BLOCK}unused\.of_prompts$", r"\1.scaler1"),
            (rf"{_BLOCK}unused\.of_adapter$", r"\1.scaler2"),
            (r"^geometry\.prompt_coordinates$", "prompt_cor"),
            (r"^geometry\.points$", "point_prompt.points"),
            (r"^geometry\.shape\.", "shape_feature_mlp."),
            (r"^geometry\.shift\.out\.", "shift_net.mlp_position."),
            (r"^geometry\.shift\.to_fine\.", "shift_net.abstraction_level1."),
            (r"^geometry\.shift\.to_coarse\.", "shift_net.abstraction_level2."),
            (r"^geometry\.shift\.at_points\.", "shift_net.propagation1."),
            (r"^geometry\.shift\.at_fine\.", "shift_net.propagation2."),
            (r"^(shift_net\.\w+)\.linears\.", r"\1.mlp_convs."),
            (r"^(shift_net\.\w+)\.norms\.", r"\1.mlp_bns."),
        ),
    ),
    Kind(
        name="idpt",
        title="released IDPT model",
        marks=(r"blocks\.cls\.", r"prompt_pos$"),
        method=_idpt,
        renames=(
            (r"^blocks\.blocks\.prompt\.edges\.0\.", "blocks.cls.conv1."),
            (r"^blocks\.blocks\.prompt\.edges\.1\.", "blocks.cls.conv2."),
            (r"^blocks\.blocks\.prompt\.edges\.2\.", "blocks.cls.conv3."),
            (r"^blocks\.blocks\.prompt\.(mix|norm)\.", r"blocks.cls.conv5.\1."),
            (r"^(blocks\.cls\.conv\d)\.mix\.", r"\1.0."),
            (r"^(blocks\.cls\.conv\d)\.norm\.", r"\1.1."),
            (r"^blocks\.blocks\.prompt_position$", "prompt_pos"),
        ),
        reasons=((r"blocks\.cls\.bn\d\.", "the same layer under a second name"),),
    ),
    _fine_tuned("fine-tuned Point-M2AE", m2ae_backbone),
    _fine_tuned("fine-tuned Point-FEMAE", femae_backbone),
    _fine_tuned(
        "fine-tuned PointGPT",
        gpt_backbone,
        head=rf"blocks\.{HEAD}\.",
        renames=((rf"^{HEAD}\.", f"blocks.{HEAD}."),),
    ),
    _fine_tuned("fine-tuned ReCon++", recon_pp_backbone),
    _fine_tuned("fine-tuned point transformer", plain_backbone),
)
