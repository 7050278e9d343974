"""Read a method's settings from a released file: from its tensors and its config."""

from dapt.adapters.release_file import ReleasedFile
from dapt.errors import look_up
from dapt.methods.dapt import Dapt
from dapt.methods.ga_prompt import GaPrompt
from dapt.methods.idpt import Idpt
from dapt.methods.point_gst import PointGst
from dapt.methods.point_lora import PointLora
from dapt.methods.ppt import Ppt
from dapt.methods.stag import Stag

IDPT_TOKENS = {
    "all": ("cls", "prompt:mean", "patch:max"),
    "promptcls": ("cls", "prompt:mean"),
    "promptonly": ("prompt:mean",),
    "pointcls": ("cls", "patch:max"),
}


def dapt_method(file: ReleasedFile) -> Dapt:
    """The settings of a released DAPT.

    Args:
        file: The released file.
    """
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


def point_gst_method(file: ReleasedFile) -> PointGst:
    """The settings of a released PointGST.

    Args:
        file: The released file.
    """
    rank = file.size("blocks.blocks.0.gft_adapter.down.weight", 0)
    return PointGst(rank=rank, local=file.setting("local", 32))


def point_lora_method(file: ReleasedFile) -> PointLora:
    """The settings of a released PointLoRA.

    Args:
        file: The released file.
    """
    config = file.settings.get("pointlora")
    if config is None:
        return PointLora(prompted=128, published=True)
    return PointLora(
        rank=config["rank"],
        alpha=config["alpha"],
        bottleneck=config["bottleneck"],
        groups=(config["groups1"], config["groups2"]),
        sizes=(config["size1"], config["size2"]),
        select=(config["select1"], config["select2"]),
        mask_weight=config["mask_weight"],
        prompted=config["prompted"],
        published=True,
    )


def ppt_method(file: ReleasedFile) -> Ppt:
    """The settings of a released PPT.

    Args:
        file: The released file.
    """
    return Ppt(
        prompts=file.setting("prompt_num_group"),
        prompt_size=file.setting("prompt_group_size"),
        rank=file.size("blocks.prompt_mlp.0.weight", 0),
    )


def stag_method(file: ReleasedFile) -> Stag:
    """The settings of a released STAG.

    Args:
        file: The released file.
    """
    size = "large" if file.settings.get("stag_size") == 1 else "standard"
    config = file.settings.get("stag")
    if config is None:
        return Stag(size=size)
    return Stag(
        size=size,
        first=config["graph_blocks"][0],
        share_down=config["share_down"],
        share_graph=config["share_graph"],
        rank=config["rank"],
        neighbors=config["neighbours"],
    )


def ga_prompt_method(file: ReleasedFile) -> GaPrompt:
    """The settings of a released GAPrompt.

    Args:
        file: The released file.
    """
    return GaPrompt(
        prompts=file.size("prompt_cor", 0),
        prompt_depth=file.setting("prompt_depth", 6),
        point_prompts=file.size("point_prompt.points", 1),
        factor=file.setting("factor", 5.0),
        perturbation=file.setting("perturbation", 0.8),
        propagation=file.setting("propagation_type", "permutation_after_attention"),
        rank=file.size("blocks.blocks.0.adapter.ln1.weight", 0),
        interpolate_from=file.setting("interpolate_neighbors", 32),
        published=not file.settings.get("aligned", False),
    )


def idpt_method(file: ReleasedFile) -> Idpt:
    """The settings of a released IDPT.

    Args:
        file: The released file.
    """
    return Idpt(
        prompt_layer=file.setting("prompt_layer"),
        edge_convs=sum(f"blocks.cls.conv{i}.0.weight" in file.state for i in (1, 2, 3)),
        neighbors=file.setting("neighbours", 20),
        head_tokens=look_up("cls_type", file.setting("cls_type", "all"), IDPT_TOKENS),
    )
