"""In eval mode, a call depends only on weights and input, whatever other threads do meanwhile."""

import copy
import threading

import pytest
import torch

import dapt
from dapt.errors import UsageError
from support.methods import attached, randomize

pytestmark = pytest.mark.usefixtures("one_thread")

CALLS = 12


def while_running(model, points, change, calls=CALLS):
    """The logits of calls that run in two threads while a third keeps changing the model."""
    done, logits, mistakes = threading.Event(), [], []

    def watched(work):
        try:
            work()
        except Exception as error:
            mistakes.append(error)

    def go_on_calling():
        for _ in range(calls):
            with torch.no_grad():
                logits.append(model(points))

    def go_on_changing():
        while not done.is_set():
            change()

    callers = [threading.Thread(target=watched, args=(go_on_calling,)) for _ in range(2)]
    changer = threading.Thread(target=watched, args=(go_on_changing,))
    for thread in (*callers, changer):
        thread.start()
    for thread in callers:
        thread.join()
    done.set()
    changer.join()
    assert not mistakes, mistakes
    assert len(logits) == 2 * calls
    return logits


@pytest.fixture
def model(small_backbone):
    """A model with adapters "one" and "two", of which "one" is active."""
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), dapt.Classification(5), "one")
    randomize(model)
    model.add_adapter("two", dapt.Vpt(prompts=3), dapt.Classification(5))
    randomize(model)
    model.set_adapter("one")
    return model.eval()


def logits_by_name(model, points):
    with torch.no_grad():
        return {name: adapter(points) for name, adapter in model.adapters.items()}


def test_saving_changes_no_call(model, tmp_path):
    points = torch.randn(2, 80, 3)
    wanted = logits_by_name(model, points)["one"]
    for got in while_running(model, points, lambda: model.save_adapter(tmp_path)):
        assert torch.equal(got, wanted)


def test_switching_mixes_no_adapters(model):
    points = torch.randn(2, 80, 3)
    wanted = list(logits_by_name(model, points).values())

    def switch():
        for name in ("two", "one"):
            model.set_adapter(name)

    for got in while_running(model, points, switch):
        assert any(torch.equal(got, one) for one in wanted)


def test_loading_replacing_and_deleting_change_no_call(model, tmp_path):
    points = torch.randn(2, 80, 3)
    wanted = logits_by_name(model, points)["one"]
    model.save_adapter(tmp_path, "two")

    def come_and_go():
        model.load_adapter(tmp_path, "three", activate=False)
        model.load_adapter(tmp_path, "three", replace=True, activate=False)
        model.delete_adapter("three")

    for got in while_running(model, points, come_and_go):
        assert torch.equal(got, wanted)
    assert list(model.adapters) == ["one", "two"] and model.active == "one"


def test_point_peft_keeps_calls_apart(small_backbone):
    model = attached(small_backbone(), "point_peft").eval()
    clouds = torch.randn(4, 1, 80, 3)
    with torch.no_grad():
        wanted = [model(cloud) for cloud in clouds]
    got = [[] for _ in clouds]

    def go_on(cloud, logits):
        for _ in range(CALLS):
            with torch.no_grad():
                logits.append(model(cloud))

    pairs = zip(clouds, got, strict=True)
    threads = [threading.Thread(target=go_on, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, logits in zip(wanted, got, strict=True):
        assert len(logits) == CALLS and all(torch.equal(one, other) for other in logits)


@torch.no_grad()
def test_the_callers_backbone_is_never_changed(small_backbone):
    backbone = small_backbone().eval()
    modules, points = dict(backbone.named_modules()), torch.randn(2, 80, 3)
    before = backbone(points).patches
    model = dapt.attach(backbone, dapt.Full(), dapt.Classification(5))
    randomize(model)
    assert dict(backbone.named_modules()) == modules
    assert torch.equal(backbone(points).patches, before)


def test_what_is_shared_moves_once_and_stays_shared(model):
    frozen = model._pretrained[0].blocks[0].attn.qkv.weight
    norm = "tokenizer.encoder.second.1.running_var"
    model.double()
    for adapter in model.adapters.values():
        state = {*map(id, adapter.network.state_dict(keep_vars=True).values())}
        assert id(frozen) in state and frozen.dtype == torch.float64
        assert adapter.network.get_buffer(norm) is model._pretrained[0].get_buffer(norm)
    points = torch.randn(2, 80, 3, dtype=torch.float64)
    assert all(out.dtype == torch.float64 for out in logits_by_name(model, points).values())


def test_a_copy_is_a_model_of_its_own(model):
    points = torch.randn(2, 80, 3)
    wanted, other = logits_by_name(model, points), copy.deepcopy(model)
    randomize(other)
    assert torch.equal(logits_by_name(model, points)["one"], wanted["one"])
    assert not torch.equal(logits_by_name(other, points)["one"], wanted["one"])


def test_replacing_is_asked_for(model, tmp_path):
    model.save_adapter(tmp_path)
    with pytest.raises(UsageError, match="already carries an adapter named 'one'"):
        model.load_adapter(tmp_path, "one")
    with pytest.raises(UsageError, match="no adapter named 'four'; it carries one, two"):
        model.delete_adapter("four")
    model.load_adapter(tmp_path, "two", replace=True, activate=False)
    points = torch.randn(2, 80, 3)
    logits = logits_by_name(model, points)
    assert model.active == "one" and torch.equal(logits["one"], logits["two"])
