"""Checkpoints from a hub, served by a local stub; large files loaded in little memory."""

import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml

import dapt
from dapt import cli
from dapt.errors import DaptError, UsageError
from dapt.models.sources import local_file
from support.runs import TINY


def test_a_file_of_a_hub(hub, small_backbone):
    wanted = small_backbone("pcp_mae", seed=1)
    content = safetensors.torch.save(wanted.state_dict())
    hub["/someone/points/resolve/v1.0/weights/small.safetensors"] = content
    fields = {
        name: getattr(wanted.config, name)
        for name in ("dim", "depth", "num_heads", "num_groups", "group_size", "encoder_dim")
    }
    source = "hf://someone/points/weights/small.safetensors@v1.0"
    backbone = dapt.create_backbone("pcp_mae", checkpoint=source, **fields)
    for entry, value in wanted.state_dict().items():
        assert torch.equal(backbone.state_dict()[entry], value), entry

    with pytest.raises(DaptError, match="hf://someone/points/other.pth cannot be fetched") as error:
        dapt.create_backbone("pcp_mae", checkpoint="hf://someone/points/other.pth", **fields)
    assert "\n" not in str(error.value)


def test_a_run_begins_with_a_file_of_a_hub(hub, run, tmp_path, monkeypatch):
    sizes = {k: v for k, v in TINY["backbone"].items() if k not in ("name", "checkpoint")}
    state = dapt.create_backbone("point_mae", "none", **sizes).state_dict()
    hub["/someone/points/resolve/v1/small.safetensors"] = safetensors.torch.save(state)
    source = "hf://someone/points/small.safetensors@v1"
    folder, code = run("x", "--backbone.checkpoint", source, epochs=1, num_points=20)
    assert code == 0
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["backbone"]["checkpoint"] == source  # not a path of this machine
    monkeypatch.chdir(tmp_path.parent)
    assert cli.main(["evaluate", str(folder), "--split", "validation"]) == 0
    trained = dapt.detach(dapt.load_run(folder)).state_dict()
    assert all(torch.equal(trained[entry], value) for entry, value in state.items())


def test_names_of_hub_files(monkeypatch):
    assert local_file("dir/a@b.pth") == "dir/a@b.pth"  # a local file
    for wrong in ("hf://", "hf://file.pth", "hf://owner/file.pth", "hf:///x/y"):
        with pytest.raises(UsageError, match="hf://owner/repository/file@revision"):
            local_file(wrong)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'dapt\[hub\]'"):
        local_file("hf://owner/repository/file.pth")


PEAK = """
import resource, sys, dapt
sizes = dict(depth=4, dim=1024, num_heads=16, encoder_dim=1024)
dapt.create_backbone("point_mae", "none", depth=1)  # loads everything that is loaded only once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network = dapt.create_backbone("point_mae", checkpoint=sys.argv[1], **sizes)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(grown / sum(w.nbytes for w in network.state_dict().values()))
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS counts in other units")
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_large_network_is_in_memory_once(tmp_path, form):
    """The file has 200 MB of weights, so a second copy would double the memory."""
    sizes = {"depth": 4, "dim": 1024, "num_heads": 16, "encoder_dim": 1024}
    with torch.device("meta"):
        planned = dapt.models.backbone_config("point_mae", **sizes).build()
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in planned.state_dict().items()}
    path = str(tmp_path / "weights")
    if form == "pth":
        torch.save({"module": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    command = [sys.executable, "-c", PEAK, path]
    times = float(subprocess.run(command, capture_output=True, check=True).stdout)
    assert times < 1.7
