"""Hugging Face PEFT's methods in dapt, and DAPT in PEFT."""

import copy
import io
import json
import pickle

import pytest
import torch

import dapt
from dapt.errors import UsageError
from dapt.methods.peft import REFUSED, SUPPORTED
from support.methods import assert_same_state, copy_of, randomize, train_steps

pytestmark = pytest.mark.usefixtures("one_thread")

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:Adapter two was active")
TASK = dapt.Classification(5, head="linear")


def test_lora_follows_its_formula(small_backbone):
    """The formula is W x + (alpha / r) B A x, with PEFT's default numbers."""
    backbone = small_backbone()
    plain = backbone.blocks[1].attn.qkv
    model = dapt.attach(backbone, dapt.Peft.of("lora", r=4, lora_alpha=12), TASK).eval()
    randomize(model)
    tuned, x = model.backbone.blocks[1].attn.qkv, torch.randn(2, 7, 48)
    A, B = tuned.lora_A["adapted"].weight, tuned.lora_B["adapted"].weight
    torch.testing.assert_close(tuned(x), plain(x) + 3 * x @ A.T @ B.T, rtol=1e-5, atol=1e-5)
    per_block = 4 * ((48 + 144) + (48 + 48) + (48 + 192) + (192 + 48))
    trained = 3 * per_block + 2 * 48 + sum(w.numel() for w in model.head.parameters())
    assert model.count_parameters()[0] == trained


def test_settings_from_the_command_line(run):
    folder, code = run("x", "--method", "peft:lora", "--method.settings", '{"r": 2}', method=None)
    assert code == 0
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert config["method"] == {"name": "peft:lora", "settings": {"r": 2}}


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: dapt.Peft.of("nonsense"),
            "unknown method 'peft:nonsense': choose one of peft:adamss, ",
        ),
        (lambda: dapt.Peft(), "peft needs a tuner: peft:lora"),
        (lambda: dapt.Peft.of("lora", rnak=3), "settings of peft:lora: .*rnak"),
        (lambda: dapt.Peft.of("lora", r=0), "does not fit this backbone: .*r"),
        (lambda: dapt.Peft.of("lora", bias="all"), "bias must be none, got 'all'"),
        (lambda: dapt.Peft.of("lora", init_lora_weights="pissa"), "init_lora_weights must be"),
        (lambda: dapt.Peft.of("lora", target_modules=["nothing"]), "does not fit this backbone"),
        (
            lambda: dapt.Peft.of("randlora"),
            "is not supported: its tensors are shared by layers, or",
        ),
        (
            lambda: dapt.Peft.of("adalora", total_step=9),
            "is not supported: its tensors are shared by layers, or",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_leave_the_backbone(small_backbone, make, message):
    backbone = small_backbone()
    before = copy_of(backbone.state_dict())
    with pytest.raises(UsageError, match=message):
        dapt.attach(backbone, make(), TASK)
    assert_same_state(backbone.state_dict(), before)
    dapt.attach(backbone, dapt.Linear(), TASK)


@pytest.fixture
def hf():
    import dapt.hf

    return dapt.hf


def assert_same_features(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert one is other is None or isinstance(one, tuple) or torch.equal(one, other)


def randomize_own(model):
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def test_dapt_in_peft_is_dapt(small_backbone, hf, capsys):
    model = peft.get_peft_model(small_backbone(), hf.DaptConfig(rank=5)).eval()
    randomize_own(model)
    other = dapt.attach(small_backbone(), dapt.Dapt(rank=5), TASK).eval()
    own = model.get_base_model().dapt_own["default"]
    with torch.no_grad():
        for name, weight in other.own_parameters():
            if name.startswith("backbone."):
                weight.copy_(own[name.removeprefix("backbone.").replace(".", "/")])
    points = torch.randn(3, 80, 3)
    assert_same_features(model(points), other.backbone(points))
    model.print_trainable_parameters()
    head = sum(weight.numel() for weight in other.head.parameters())
    assert f"trainable params: {other.count_parameters()[0] - head:,} ||" in capsys.readouterr().out


def test_only_its_own_trains(small_backbone, hf):
    backbone = small_backbone()
    before = copy_of(backbone.state_dict())
    model = peft.get_peft_model(backbone, hf.DaptConfig(rank=5)).train()
    own = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(own, 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        features = model(torch.randn(3, 80, 3))
        (features.patches.square().mean() + features.cls.sum() + features.prompts.sum()).backward()
        assert all(weight.grad is not None for weight in own)
        optimizer.step()
    assert all(w.requires_grad == (w.grad is not None) for w in model.parameters())
    assert model.unload() is backbone
    assert_same_state(backbone.state_dict(), before)


def test_saved_and_loaded(small_backbone, hf, tmp_path):
    model = peft.get_peft_model(small_backbone(), hf.DaptConfig(rank=5, drop_path=0.1)).eval()
    randomize_own(model)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(small_backbone(), tmp_path).eval()
    points = torch.randn(3, 80, 3)
    assert_same_features(again(points), model(points))
    assert again.peft_config["default"].drop_path == 0.1
    assert not any(weight.requires_grad for weight in again.parameters())


def test_several_adapters_and_none(small_backbone, hf, tmp_path):
    points = torch.randn(3, 80, 3)
    with torch.no_grad():
        pretrained = small_backbone().eval()(points)
    model = peft.get_peft_model(small_backbone(), hf.DaptConfig(rank=5), "one")
    randomize_own(model)
    model.eval()
    one = model(points)
    model.add_adapter("two", hf.DaptConfig(rank=3))
    assert_same_features(model(points), one)
    model.set_adapter("two")
    randomize_own(model)
    two = model(points)
    assert not torch.equal(one.cls, two.cls)
    with model.disable_adapter():
        assert_same_features(model(points), pretrained)
    assert_same_features(model(points), two)

    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(small_backbone(), tmp_path / "one", "one").eval()
    again.load_adapter(tmp_path / "two", "two")
    assert_same_features(again(points), one)
    again.set_adapter("two")
    assert_same_features(again(points), two)
    again.delete_adapter("two")
    assert_same_features(again(points), one)
    again.eval().add_adapter("three", hf.DaptConfig(rank=4))
    again.set_adapter("three")  # its modules were created in training mode
    assert not any(module.training for module in again.modules())
    assert torch.equal(again(points).cls, again(points).cls)


def test_settings_of_the_config_are_checked(hf):
    with pytest.raises(UsageError, match="rank must be from 1 to 256, got 0"):
        hf.DaptConfig(rank=0)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "oft", "vera"])
def test_merging_leaves_the_plain_network(small_backbone, method):
    settings = {"oft": {"oft_block_size": 3, "r": 0}, "ia3": {}}.get(method, {"r": 3})
    peft_method = dapt.Peft.of(method, **settings)
    model = dapt.attach(small_backbone(), peft_method, dapt.Classification(5)).eval()
    randomize(model)
    plain = {name: type(module) for name, module in small_backbone().named_modules()}
    points = torch.randn(2, 80, 3)
    before = model(points)
    merged = dapt.merge(model)
    torch.testing.assert_close(merged(points), before, atol=1e-4, rtol=1e-4)  # up to rounding
    assert {name: type(module) for name, module in merged.backbone.named_modules()} == plain


class Network(torch.nn.Module):
    """A network that contains a backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(backbone.dim, 4)

    def forward(self, points):
        features = self.backbone(points)
        return self.head(features.cls + features.prompts.mean(1))


def test_a_backbone_within_a_network_and_its_head(small_backbone, hf, tmp_path):
    points = torch.randn(3, 80, 3)
    network = Network(small_backbone())
    plain = copy_of(network.state_dict())
    config = hf.DaptConfig(rank=5, modules_to_save=["head"])
    model = peft.get_peft_model(network, config).eval()
    randomize_own(model)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    own = {name for name in trained if ".backbone.dapt_own.default." in name}
    head = {f"base_model.model.head.modules_to_save.default.{w}" for w in ("weight", "bias")}
    assert trained == own | head and own
    assert_same_state(peft.get_base_model_state_dict(model), plain)
    wanted = model(points)
    model.save_pretrained(tmp_path)
    torch.manual_seed(5)
    for low in (False, True):
        fresh = Network(small_backbone())
        fresh.load_state_dict(plain)
        again = peft.PeftModel.from_pretrained(fresh, tmp_path, low_cpu_mem_usage=low).eval()
        assert torch.equal(again(points), wanted)
    assert torch.equal(copy.deepcopy(model)(points), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(model))(points), wanted)
    torch.testing.assert_close(
        model.double()(points.double()).float(), wanted, rtol=1e-4, atol=1e-4
    )
    assert model.unload() is network and type(network.backbone) is dapt.models.PointTransformer
    assert list(network.state_dict()) == list(plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_little_memory_gives_the_same_gradients(small_backbone, hf, dtype):
    """Blocks are run again in the backward, where their tensors must still be available."""
    grads = []
    for memory in ("default", "low"):
        torch.manual_seed(3)
        config = hf.DaptConfig(rank=5, memory=memory, dropout=0.3, drop_path=0.0)
        model = peft.get_peft_model(small_backbone().to(dtype), config).train()
        torch.manual_seed(4)
        points = torch.randn(3, 80, 3).to(dtype)
        features = model(points)
        (features.patches.float().square().mean() + features.prompts.float().sum()).backward()
        own = [weight for weight in model.parameters() if weight.requires_grad]
        assert all(weight.dtype == torch.float32 for weight in own)  # PEFT's default
        grads.append([weight.grad for weight in own if weight.grad is not None])
    assert len(grads[0]) > 20
    close = {"rtol": 0, "atol": 0} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, **close)  # what is kept in bfloat16 is rounded


def test_an_adapter_for_each_cloud(small_backbone, hf):
    model = peft.get_peft_model(small_backbone(), hf.DaptConfig(rank=5), "one")
    model.add_adapter("two", hf.DaptConfig(rank=3))
    wanted, points = {}, torch.randn(4, 80, 3)
    for name in ("one", "two"):
        model.set_adapter(name)
        randomize_own(model)
        model.eval()
        wanted[name] = model(points)
    names = ["two", "one", "one", "two"]
    got = model(points, adapter_names=names)
    for i, name in enumerate(names):
        for mine, other in zip(got, wanted[name], strict=True):
            if isinstance(mine, torch.Tensor):
                torch.testing.assert_close(mine[i], other[i], rtol=1e-5, atol=1e-5)
    assert torch.equal(model(points).cls, wanted["two"].cls)
    for bad in (["one"], ["one", "two", "three", "one"], ["__base__"] * 4):
        with pytest.raises(ValueError, match="must name one of one, two for each of the 4 clouds"):
            model(points, adapter_names=bad)
    model.base_model.set_adapter(["one", "two"])
    with pytest.raises(UsageError, match=r"only one DAPT adapter can be active, got \['one', 'two"):
        model(points)


def test_merged_and_back(small_backbone, hf):
    backbone, points = small_backbone(), torch.randn(3, 80, 3)
    before = copy_of(backbone.state_dict())
    model = peft.get_peft_model(backbone, hf.DaptConfig(rank=5)).eval()
    randomize_own(model)
    wanted = model(points)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(points).cls, wanted.cls, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.double()(points).cls.float(), wanted.cls, rtol=1e-4, atol=1e-4)
    model.float().unmerge_adapter()
    assert_same_features(model(points), wanted)
    assert_same_state(backbone.state_dict(), before)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(points).cls, wanted.cls, rtol=1e-4, atol=1e-4)
    kinds = {type(module).__name__ for module in merged.modules()}
    assert not kinds & {"DaptLayer", "ScaleShiftLinear", "ScaleShiftNorm"}
    assert "DynamicAdapter" in kinds  # its scale depends on the token
    assert not any(weight.requires_grad for weight in merged.parameters())
    assert_same_state(backbone.state_dict(), before)


def test_what_of_peft_does_not_fit_is_said(hf, small_backbone):
    with pytest.raises(UsageError, match="a Sequential contains no backbone of dapt"):
        peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(3, 3)), hf.DaptConfig(rank=3))
    with pytest.raises(UsageError, match=r"among the backbones \['backbone'\], got \['head'\]"):
        peft.get_peft_model(Network(small_backbone()), hf.DaptConfig(target_modules=["head"]))
    with pytest.raises(ValueError, match="'DAPT' is not compatible with the `PeftMixedModel`"):
        peft.get_peft_model(small_backbone(), hf.DaptConfig(rank=3), mixed=True)
    model = peft.get_peft_model(small_backbone(), hf.DaptConfig(rank=3))
    assert not hasattr(model.get_base_model(), "bias")


# Settings of methods whose defaults are too large for these layers.
FITTING = {
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 16},
    "fourierft": {"n_frequency": 30},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 3, "r": 0},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "waveft": {"n_frequency": 30},
}


def installed_tuners():
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    names = {str(getattr(kind, "value", kind)).lower() for kind in PEFT_TYPE_TO_TUNER_MAPPING}
    return sorted(names - {"dapt"} | {"dora"})  # ours, registered by dapt.hf; a variant of LoRA


@pytest.mark.parametrize("kind", installed_tuners())
def test_every_tuner_of_the_installed_version_works_or_is_refused(small_backbone, tmp_path, kind):
    """A new tuner fails here until it is listed as supported or as refused."""
    if kind in REFUSED:
        with pytest.raises(UsageError, match=f"^peft:{kind} is not supported: {REFUSED[kind]}$"):
            dapt.Peft.of(kind)
        return
    assert kind in SUPPORTED
    backbone = small_backbone()
    before = copy_of(backbone.state_dict())
    model = dapt.attach(backbone, dapt.Peft.of(kind, **FITTING.get(kind, {})), TASK)
    train_steps(model)
    for entry, weight in model.named_parameters():
        assert model.trains(entry) == (weight.grad is not None), entry
    points = torch.randn(3, 80, 3)
    with torch.no_grad():
        wanted = model.eval()(points)
        model.save_adapter(tmp_path)
        torch.manual_seed(99)  # what was drawn at random has to come from the file
        again = dapt.load_adapter(tmp_path, small_backbone()).eval()
        assert torch.equal(again(points), wanted)
        torch.testing.assert_close(dapt.merge(again)(points), wanted, atol=1e-4, rtol=1e-4)
    dapt.detach(model)
    assert_same_state(backbone.state_dict(), before)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(a+)+$"},
        {"target_modules": ["(a+)+$"]},
        {"rank_pattern": {"(a+)+$": 3}},
        {"layers_pattern": "blocks"},
        {"base_model_name_or_path": "attacker/model"},
        {"revision": "main"},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
        {"megatron_core": "os"},
        {"megatron_config": {"a": 1}},
        {"loftq_config": {"loftq_bits": 4}},
        {"eva_config": {"rho": 2.0}},
        {"corda_config": {"cache_file": "/etc/passwd"}},
        {"task_type": "attacker/model"},
    ],
    ids=str,
)
def test_settings_stand_for_no_file_hub_code_or_pattern(fields):
    (name,) = fields
    with pytest.raises(UsageError, match=f"settings of peft:lora: {name} must be a number, a swi"):
        dapt.Peft.of("lora", **fields)


def test_settings_that_are_fine():
    dapt.Peft.of("lora", r=3, use_rslora=True, init_lora_weights="gaussian", bias="none")
    dapt.Peft.of("lora", target_modules=["attn.qkv", "fc1"], layers_to_transform=[0, 2])
    dapt.Peft.of("road", variant="road_4")
    dapt.Peft.of("ia3", feedforward_modules=["fc2"], target_modules=["qkv", "fc2"])


def test_an_adapter_file_cannot_ask_for_a_second_model(small_backbone, tmp_path):
    dapt.attach(small_backbone(), dapt.Peft.of("lora", r=2), TASK).save_adapter(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    config["method"] = {"name": "peft:shadow", "settings": {"shadow_model": "attacker/repo"}}
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="peft:shadow is not supported: it loads a second model"):
        dapt.load_adapter(tmp_path, small_backbone())


CODE = "open({marker!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n"


@pytest.mark.parametrize(
    "kind, field",
    [
        ("shadow", "shadow_model"),
        ("lora", "shadow_model"),
        ("lora", "base_model_name_or_path"),
        ("lora", "auto_mapping"),
        ("xlora", "adapters"),
    ],
)
def test_an_adapter_file_runs_no_code_of_a_folder(
    small_backbone, tmp_path, monkeypatch, kind, field
):
    """A local folder with `auto_map` contains code that the libraries below offer to run, and do
    run if standard input says y."""
    marker, attack = tmp_path / "executed", tmp_path / "attack"
    attack.mkdir()
    (attack / "modeling.py").write_text(CODE.format(marker=str(marker)))
    names = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    names["AutoModelForCausalLM"] = "modeling.Model"
    (attack / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": names}))
    folder = tmp_path / "adapter"
    dapt.attach(small_backbone(), dapt.Peft.of("lora", r=2), TASK).save_adapter(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    value = {"a": str(attack)} if field in ("adapters", "auto_mapping") else str(attack)
    config["method"] = {"name": f"peft:{kind}", "settings": {field: value}}
    path.write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UsageError, match="is not supported|there is no field|must be a number"):
        dapt.load_adapter(folder, small_backbone())
    assert not asked and not marker.exists()
