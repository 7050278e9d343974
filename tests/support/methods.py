"""The matrix of methods and backbones, and helpers for its tests."""

import importlib.util

import pytest
import torch

import dapt
from dapt.runs.memory import CountSaved

FAMILY = {
    "adapter": dapt.Adapter(rank=5),
    "dapt": dapt.Dapt(rank=8),
    "dapt, low memory": dapt.Dapt(rank=8, memory="low"),
    "dapt, positions in each block": dapt.Dapt(rank=8, positions="each_block"),
    "dapt, published batch norms": dapt.Dapt(rank=8, freeze_bn=False),
    "density, dapt": dapt.Density.on(dapt.Dapt(rank=8)),
    "density, full, ReLU": dapt.Density.on(dapt.Full(), relu=True),
    "full": dapt.Full(),
    "ga_prompt": dapt.GaPrompt(prompts=3, prompt_depth=2, interpolate_from=4),
    "ga_prompt, prompts in place of patches": dapt.GaPrompt(
        prompts=3, prompt_depth=2, interpolate_from=4, propagation="replacement_before_attention"
    ),
    "idpt": dapt.Idpt(neighbors=4, head_tokens=("prompt:mean", "patch:max")),
    "idpt, its block alone": dapt.Idpt(neighbors=4, class_token=False, train_prompt_position=True),
    "linear": dapt.Linear(),
    "point_gst": dapt.PointGst(rank=5, local=6),
    "point_gst, whole batch": dapt.PointGst(rank=5, transform="Ut", published=True),
    "point_lora": dapt.PointLora(
        rank=3, bottleneck=6, groups=(11, 7), sizes=(9, 12), select=(4, 2)
    ),
    "point_peft": dapt.PointPeft(prompts=5, prompt_depth=2, geometry_dim=6, neighbors=4),
    "ppt": dapt.Ppt(rank=6),
    "ppt, other patches": dapt.Ppt(prompts=5, prompt_size=7, rank=6, freeze_bn=False),
    "prefix": dapt.Prefix(prefixes=3),
    "prefix, made": dapt.Prefix(prefixes=3, hidden=7),
    "reversible prefix": dapt.Reversible.on(dapt.Prefix(prefixes=3), variant=3),
    "reversible, variant 1": dapt.Reversible(),
    "reversible, variant 2": dapt.Reversible(variant=2),
    "reversible, variant 3": dapt.Reversible(variant=3),
    "reversible dapt": dapt.Reversible.on(dapt.Dapt(rank=5)),
    "density, stag": dapt.Density.on(dapt.Stag(rank=6, neighbors=4)),
    "stag": dapt.Stag(rank=6, neighbors=4),
    "stag, large": dapt.Stag(size="large", rank=6, neighbors=4, final_norm=True),
    "vpt": dapt.Vpt(prompts=3),
}


if importlib.util.find_spec("peft"):
    FAMILY |= {
        "peft:dora": dapt.Peft.of("dora", r=3),
        "peft:ia3": dapt.Peft.of("ia3"),
        "peft:lora": dapt.Peft.of("lora", r=3, lora_dropout=0.1),
        "peft:oft": dapt.Peft.of("oft", oft_block_size=3, r=0),
        "peft:vera": dapt.Peft.of("vera", r=3),
        "density, peft:lora": dapt.Density.on(dapt.Peft.of("lora", r=3)),
    }


BACKBONES = ("point_mae", "point_bert", "point_m2ae")


ONE_SCALE = ("reversible", "ppt", "point_lora", "ga_prompt")


TASK = dapt.Classification(5)


LABELS = torch.tensor([0, 1, 2, 4])


each_method = pytest.mark.parametrize("method", FAMILY)


each_backbone = pytest.mark.parametrize("name", BACKBONES)


def attached(backbone, method, task=TASK):
    if str(method).startswith(ONE_SCALE) and len(backbone.stacks) > 1:
        pytest.skip("needs a single-scale backbone")
    model = dapt.attach(backbone, FAMILY[method] if isinstance(method, str) else method, task)
    model.prepare([torch.randn(4, 80, 3), torch.randn(3, 80, 3)])
    return model


def copy_of(state):
    return {entry: value.clone() for entry, value in state.items()}


def assert_same_state(got, wanted):
    assert list(got) == list(wanted)
    for entry, value in wanted.items():
        assert torch.equal(got[entry], value), entry


def randomize(model):
    """Moves own weights away from their initial values, where up-projections are zero."""
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.add_(0.1 * torch.randn_like(weight))


def train_steps(model, steps=2):
    model.train()
    optimizer = torch.optim.AdamW([weight for _, weight in model.own_parameters()], 1e-2)
    for _ in range(steps):
        loss = model.adapter.task.loss(model(torch.randn(4, 80, 3)), {"labels": LABELS})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def kept_by_block(model, points, blocks):
    """Bytes that autograd keeps for a whole pass, and for the pass through each block."""
    kept, each = CountSaved(model), {}

    def before(block, _):
        each[block] = kept.bytes

    def after(block, *_):
        each[block] = kept.bytes - each[block]

    for block in blocks:
        block.register_forward_pre_hook(before)
        block.register_forward_hook(after)
    with kept:
        model(points)
    return kept.bytes, [each[block] for block in blocks]
