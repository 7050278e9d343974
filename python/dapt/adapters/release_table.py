"""The kinds of released files: which model each contains, and the keys of its tensors.

The layouts in `dapt.models.layouts` name the keys of the backbones; an entry of `KINDS` adds those
of a method. A new kind needs an entry here and, if its method has settings, a function in
`release_methods.py`.
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
from dapt.adapters.release_methods import (
    dapt_method,
    ga_prompt_method,
    idpt_method,
    point_gst_method,
    point_lora_method,
    ppt_method,
    stag_method,
)
from dapt.methods.full import Full
from dapt.methods.method import Method
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
        name: The `method` that a config names; None for a fully fine-tuned model.
        title: What such a file is called.
        marks: Regular expressions that each match the beginning of a key. They identify a file
            whose config names no method.
        method: Reads the method, with the settings that the file was trained with.
        backbone: Reads the config of the backbone.
        like: The title of the layout of the same backbone without the method.
        renames: From the keys of that layout to those of the file, where the method adds or moves
            keys.
        reasons: Patterns of further keys that the model does not need, and why.
        head: The kind of a classifier's head.
        head_dropout: The dropout rate of that head.
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
        """Whether a file is of this kind, judging by the method in its config, or else by its keys.

        Args:
            file: The released file.
        """
        named = file.settings.get("method")
        if named is not None:
            return named == self.name
        return all(any(re.match(mark, key) for key in file.state) for mark in self.marks)

    def task(self, file: ReleasedFile) -> Task:
        """The task that the file's head was trained for.

        Args:
            file: The released file.
        """
        return task_of(file, self.head, self.head_dropout)

    def layout(self, task: Task) -> Layout:
        """The layout of the whole model, that is, of the adapted backbone and the head.

        Args:
            task: The task that the head was trained for.
        """
        like = _layout(self.like)
        renames = (
            (r"\.frozen\.", "."),
            (r"^backbone\.", ""),
            *(SEGMENTATION_RENAMES if task.labels_points else CLASSIFIER_RENAMES),
            *like.renames,
            *self.renames,
        )
        return dataclasses.replace(
            like,
            title=self.title,
            marks=(),
            renames=renames,
            others=(),
            reasons=(*self.reasons, *like.reasons),
            closed=True,
        )


def _layout(title: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.title == title)


_HEAD = rf"{HEAD}\.|convs3\."


def _fine_tuned(
    title: str,
    backbone: Callable[[ReleasedFile], BackboneConfig],
    head: str = _HEAD,
    renames: Pairs = (),
) -> Kind:
    """A model that was trained as a whole: a backbone with a known layout, and a head."""
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
        method=dapt_method,
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
        method=point_gst_method,
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
        method=point_lora_method,
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
        method=ppt_method,
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
        method=stag_method,
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
        method=ga_prompt_method,
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
        method=idpt_method,
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
