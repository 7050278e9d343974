"""Every method on every backbone either trains or refuses in one sentence."""

import pytest
import torch

import dapt
from dapt.errors import UsageError
from support.fixtures import SMALL
from support.methods import FAMILY, LABELS, TASK

NEWER = [name for name in SMALL if name not in ("point_mae", "point_bert", "point_m2ae")]
REFUSALS = {
    "point_femae": {"reversible": "does something between its blocks"},
    "recon_pp_small": {"reversible": "does something between its blocks"},
    "uni3d_tiny": {"density, full, ReLU": "relu replaces GELU, and this MLP has a Gate"},
    "ptv3_tiny": {
        "reversible dapt": "reversible works on one stack of plain blocks",
        **dict.fromkeys(
            (
                "density, stag",
                "ga_prompt",
                "idpt",
                "point_gst",
                "point_lora",
                "point_peft",
                "ppt",
                "prefix",
                "reversible",
                "stag",
                "vpt",
            ),
            r"needs a row of tokens for each cloud, and Ptv3 .* choose from adapter, dapt, full",
        ),
    },
    "uni3d_base": {"density, full, ReLU": "relu replaces GELU, and this MLP has a Gate"},
}


def refusal(name, method):
    refusals = REFUSALS.get(name, {}).items()
    return next((why for start, why in refusals if method.startswith(start)), None)


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("name", NEWER)
def test_trains_or_refuses(small_backbone, tmp_path, name, method):
    backbone = small_backbone(name)
    before = {entry: value.clone() for entry, value in backbone.state_dict().items()}
    why = refusal(name, method)
    if why is not None:
        with pytest.raises(UsageError, match=why) as caught:
            dapt.attach(backbone, FAMILY[method], TASK)
        assert "\n" not in str(caught.value)
    else:
        model = dapt.attach(backbone, FAMILY[method], TASK)
        model.prepare([torch.randn(4, 80, 3), torch.randn(3, 80, 3)])
        model.train()
        optimizer = torch.optim.AdamW([weight for _, weight in model.own_parameters()], 1e-2)
        loss = TASK.loss(model(torch.randn(4, 80, 3)), {"labels": LABELS})
        loss.backward()
        optimizer.step()
        trained = [entry for entry, w in model.own_parameters() if w.grad is not None]
        assert len(trained) > len(model.own_parameters()) / 2 and loss.isfinite()

        model.save_adapter(tmp_path)
        again = dapt.load_adapter(tmp_path, small_backbone(name)).eval()
        points = torch.randn(3, 80, 3)
        assert torch.equal(again(points), model.eval()(points))
        dapt.detach(model)
    for entry, value in backbone.state_dict().items():
        assert torch.equal(value, before[entry]), entry
