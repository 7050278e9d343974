"""The kinds of released files: which model is in one, and under which keys it keeps it.

A new kind is an entry of `KINDS`, and nothing else.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dapt.errors import DaptError, UsageError, look_up
from dapt.methods.dapt import Dapt
from dapt.methods.full import Full
from dapt.methods.ga_prompt import GaPrompt
from dapt.methods.idpt import Idpt
from dapt.methods.method import Method
from dapt.methods.point_gst import PointGst
from dapt.methods.point_lora import PointLora
from dapt.methods.ppt import Ppt
from dapt.methods.stag import Stag
from dapt.models.hierarchical import PointM2aeConfig
from dapt.models.layouts import LAYOUTS, Layout
from dapt.models.point_femae import PointFemaeConfig
from dapt.models.point_gpt import PointGptConfig
from dapt.models.recon_pp import ReconPpConfig
from dapt.models.transformer import PointTransformerConfig
from dapt.models.weight_files import State
from dapt.tasks import Classification, PartSegmentation, SemanticSegmentation, Task

HEAD = "cls_head_finetune"
HEAD_WIDTH = 64  # of an attention's head, where a config does not say how many heads there are

BackboneConfig = PointTransformerConfig | PointM2aeConfig | ReconPpConfig
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReleasedFile:
    """The tensors of a file, and the settings that its shapes do not tell.

    Args:
        source: its name, for errors.
        state: tensors by their keys.
        settings: of the published config.
    """

    source: str
    state: State
    settings: Mapping[str, Any]

    def size(self, key: str, axis: int) -> int:
        """The length of a tensor's axis.

        Args:
            key: of the tensor.
            axis: of the tensor.
        """
        if key not in self.state:
            raise DaptError(
                f"{self.source} is not a released model of this kind: '{key}' is missing"
            )
        return self.state[key].shape[axis]

    def count(self, pattern: str) -> int:
        """1 + the greatest number in the file's keys.

        Args:
            pattern: of a key, with a group where the number is.
        """
        numbers = (re.match(pattern, key) for key in self.state)
        return 1 + max((int(number[1]) for number in numbers if number), default=-1)

    @property
    def head(self) -> str:
        """With what the keys of the classification head begin."""
        named = (re.match(rf"(blocks\.)?{HEAD}(?=\.)", key) for key in self.state)
        return next((match[0] for match in named if match), HEAD)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Of the patch encoder's inner layers, one more of which the larger networks have."""
        keys = (r"\w+\.first_conv\.[036]\.weight", r"\w+\.second_conv\.0\.weight")
        widths = [
            [self.size(key, 0) for key in self.state if re.fullmatch(pattern, key)]
            for pattern in keys
        ]
        return (*widths[0], *widths[1])

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the released config.

        Args:
            name: of the setting.
            default: None where the config has to say it.
        """
        value = self.settings.get(name, default)
        if value is None:
            raise UsageError(f"the config of {self.source} must say '{name}'")
        return value


def plain_backbone(file: ReleasedFile) -> PointTransformerConfig:
    """A network of Point-MAE's kind, with the sizes that the tensors have.

    Args:
        file: as released.
    """
    dim = file.size("norm.weight", 0)
    return PointTransformerConfig(
        num_groups=file.setting("num_group"),
        group_size=file.setting("group_size"),
        dim=dim,
        depth=file.count(r"blocks\.blocks\.(\d+)\."),
        num_heads=file.setting("num_heads", max(dim // HEAD_WIDTH, 1)),
        mlp_ratio=file.size("blocks.blocks.0.mlp.fc1.weight", 0) // dim,
        encoder_dim=file.size("encoder.second_conv.3.weight", 0),
        class_token="cls_token" in file.state,
        drop_path=file.setting("drop_path_rate", 0.1),
        encoder_widths=file.encoder_widths,
        positions="sincos" if file.size("pos_embed.0.weight", 1) == dim else "mlp",
    )


def femae_backbone(file: ReleasedFile) -> PointFemaeConfig:
    """A Point-FEMAE with the sizes that the tensors have.

    Args:
        file: as released.
    """
    plain = dataclasses.asdict(plain_backbone(file))
    module = r"blocks\.blocks\.(\d+)\.cls\.conv1\.0\.weight"
    where = [int(match[1]) for key in file.state if (match := re.fullmatch(module, key))]
    inner = file.size(f"blocks.blocks.{where[0]}.cls.conv1.0.weight", 0)
    return PointFemaeConfig(
        **plain,
        neighbors=file.setting("gcn_k", 20),
        reduction=plain["dim"] // inner,
        local_blocks=None if where == list(range(plain["depth"])) else tuple(where),
    )


def gpt_backbone(file: ReleasedFile) -> PointGptConfig:
    """A PointGPT with the sizes that the tensors have.

    Args:
        file: as released.
    """
    dim = file.size("blocks.ln_f.weight", 0)
    return PointGptConfig(
        num_groups=file.setting("num_group"),
        group_size=file.setting("group_size"),
        dim=dim,
        depth=file.count(r"blocks\.layers\.(\d+)\."),
        num_heads=file.setting("num_heads", max(dim // HEAD_WIDTH, 1)),
        mlp_ratio=file.size("blocks.layers.0.mlp.0.weight", 0) // dim,
        encoder_dim=dim,
        class_token="cls_token" in file.state,
        encoder_widths=file.encoder_widths,
    )


def recon_pp_backbone(file: ReleasedFile) -> ReconPpConfig:
    """A ReCon++ with the sizes that the tensors have.

    Args:
        file: as released.
    """
    dim = file.size("encoder.ln_f1.weight", 0)
    blocks = "encoder.blocks.local_blocks"
    sizes = ReconPpConfig(
        num_groups=file.setting("num_group"),
        group_size=file.setting("group_size"),
        dim=dim,
        depth=file.count(rf"{blocks}\.(\d+)\."),
        num_heads=file.setting("num_heads", max(dim // HEAD_WIDTH, 1)),
        mlp_ratio=file.size(f"{blocks}.0.mlp.fc1.weight", 0) // dim,
        drop_path=file.setting("drop_path_rate", 0.2),
    )
    return sizes.fitted(file.state)


def m2ae_backbone(file: ReleasedFile) -> PointM2aeConfig:
    """A Point-M2AE, whose sizes come from the config.

    Args:
        file: as released.
    """
    return PointM2aeConfig(
        num_groups=tuple(file.setting("num_groups")),
        group_size=tuple(file.setting("group_sizes")),
        dims=tuple(file.setting("encoder_dims")),
        depths=tuple(file.setting("encoder_depths")),
        radius=tuple(file.setting("local_radius")),
        num_heads=file.setting("num_heads"),
    )


def task_of(file: ReleasedFile, head: str, dropout: float) -> Task:
    """The task whose head is in the file.

    Args:
        file: as released.
        head: of a classifier with the published layers; others are told by their keys.
        dropout: of such a head.
    """
    if "convs3.weight" in file.state:
        labels = file.size("convs3.weight", 0)
        if "label_conv.0.weight" in file.state:
            return PartSegmentation(file.size("label_conv.0.weight", 1), labels)
        return SemanticSegmentation(labels)
    if f"{file.head}.8.weight" in file.state:
        classes = file.size(f"{file.head}.8.weight", 0)
        return Classification(classes, head=head, dropout=dropout)
    if f"{file.head}.3.weight" in file.state:
        return Classification(file.size(f"{file.head}.3.weight", 0), head="point_bert")
    return Classification(file.size(f"{file.head}.0.weight", 0), head="linear")


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
        name: what a config names as `method`; none for a fully fine-tuned model.
        title: what such a file is called.
        marks: regular expressions, each the beginning of a key, that tell the kind of a file whose
            config names no method.
        method: the method, with the settings that the file was trained with.
        backbone: the backbone's config.
        like: title of the layout of the same backbone without the method.
        renames: from that layout's keys to the file's, where the method has or moves some.
        reasons: patterns of keys that the model has no use for, and why.
        head: whose layers a classifier has.
        head_dropout: in them.
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
        like = next(layout for layout in LAYOUTS if layout.title == self.like)
        renames = (
            (r"\.frozen\.", "."),
            (r"^backbone\.", ""),
            *(SEGMENTATION_RENAMES if task.labels_points else CLASSIFIER_RENAMES),
            *like.renames,
            *self.renames,
        )
        return Layout(
            self.title,
            like.network,
            marks=(),
            renames=renames,
            otherwise=like.otherwise,
            reasons=self.reasons,
            closed=True,
            license=like.license,
        )


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
        marks=(r"blocks\.blocks\.0\.Adapter_MLP\.",),
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
    Kind(
        name=None,
        title="fine-tuned Point-M2AE",
        marks=(r"h_encoder\.", r"norm\.", _HEAD),
        method=lambda file: Full(),
        backbone=m2ae_backbone,
        like="fine-tuned Point-M2AE",
    ),
    Kind(
        name=None,
        title="fine-tuned Point-FEMAE",
        marks=(r"blocks\.blocks\.\d+\.cls\.", r"encoder\.first_conv\.", _HEAD),
        method=lambda file: Full(),
        backbone=femae_backbone,
        like="fine-tuned Point-FEMAE",
        reasons=((r"blocks\.blocks\.\d+\.cls\.bn[12]\.", "the same layer under a second name"),),
    ),
    Kind(
        name=None,
        title="fine-tuned PointGPT",
        marks=(r"blocks\.layers\.", r"encoder\.first_conv\.", rf"blocks\.{HEAD}\."),
        method=lambda file: Full(),
        backbone=gpt_backbone,
        like="fine-tuned PointGPT",
        renames=((rf"^{HEAD}\.", f"blocks.{HEAD}."),),
        reasons=(
            (r"generator_blocks\.", "generator, which takes no part in classification"),
            (r"(blocks\.increase_dim|norm)\.", "nothing reads it"),
        ),
    ),
    Kind(
        name=None,
        title="fine-tuned ReCon++",
        marks=(r"encoder\.blocks\.local_blocks\.", _HEAD),
        method=lambda file: Full(),
        backbone=recon_pp_backbone,
        like="fine-tuned ReCon++",
        reasons=((r"decoder\.", "decoder, which takes no part in classification"),),
    ),
    Kind(
        name=None,
        title="fine-tuned point transformer",
        marks=(r"encoder\.first_conv\.", r"blocks\.blocks\.", _HEAD),
        method=lambda file: Full(),
    ),
)
