"""A batch of clouds with different adapters, compared with one adapter at a time."""

import importlib.util
import threading

import pytest
import torch

import dapt
from dapt.adapters.mixture import named
from dapt.errors import UsageError
from dapt.methods import side_by_side
from support.methods import FAMILY, randomize

POSITIONS = ("each_block", "once", "each_block")
KINDS = {
    "dapt": [dapt.Dapt(rank=8, dropout=0.3), dapt.Dapt(rank=8, drop_path=0.0), dapt.Dapt(rank=8)],
    "positions in each block": [dapt.Dapt(rank=8, positions=p) for p in POSITIONS],
    "adapter": [dapt.Adapter(rank=5)] * 3,
    "vpt": [dapt.Vpt(prompts=3)] * 3,
    "prefix": [dapt.Prefix(prefixes=3)] * 3,
    "linear": [dapt.Linear()] * 3,
    "of two ranks": [dapt.Dapt(rank=8), dapt.Dapt(rank=3), dapt.Dapt(rank=8)],
    "of many kinds": [dapt.Dapt(rank=8), dapt.Vpt(prompts=3), dapt.Prefix(prefixes=2)],
}
if importlib.util.find_spec("peft"):
    KINDS["peft:lora"] = [dapt.Peft.of("lora", r=3, lora_dropout=0.1)] * 3
NAMES = ["b", "a", "c", "a", None, "b"]
BACKBONES = ("point_mae", "point_bert", "point_m2ae", "point_gpt_s", "recon_pp_small", "uni3d_tiny")


def carrying(backbone, methods, tasks=None):
    """A model with adapters "a", "b" and "c", in which every weight affects the output."""
    model = None
    for i, (name, method) in enumerate(zip("abc", methods, strict=True)):
        task = tasks[i] if tasks else dapt.Classification(3 + i)
        if model is None:
            model = dapt.attach(backbone, method, task, name)
        else:
            model.add_adapter(name, method, task)
        randomize(model)
    return model.eval()


@torch.no_grad()
def one_at_a_time(model, points, names, *inputs, queries=None):
    out = []
    for b, name in enumerate(names):
        rows = slice(b, b + 1)
        more = None if queries is None else queries[rows]
        given = [value[rows] for value in inputs]
        out.append(model.adapters[name](points[rows], *given, queries=more)[0])
    return out


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_cloud_gets_what_its_adapter_says(small_backbone, kind, backbone):
    if kind == "prefix" and backbone.startswith(("uni3d", "point_gpt")):
        pytest.skip("needs plain attention")
    try:
        model = carrying(small_backbone(backbone), KINDS[kind])
    except UsageError as error:
        pytest.skip(str(error))
    points = torch.randn(len(NAMES), 80, 3)
    got = model(points, adapters=NAMES)
    assert isinstance(got, list) and not any(row.requires_grad for row in got)
    carried = [name for name in NAMES if name]
    own = points[[b for b, name in enumerate(NAMES) if name]]
    wanted = one_at_a_time(model, own, carried)
    mixed = [row for row, name in zip(got, NAMES, strict=True) if name]
    for mine, theirs in zip(mixed, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), model.pretrained() as network:
        features = network(points[4:5])
        pooled = dapt.tasks.heads.Pool(network.head_tokens)(features)[0]
    torch.testing.assert_close(got[4], pooled, rtol=1e-4, atol=1e-4)


def test_heads_of_one_size_give_a_tensor(small_backbone):
    model = carrying(small_backbone(), KINDS["dapt"], [dapt.Classification(4)] * 3)
    points = torch.randn(3, 80, 3)
    logits = model(points, adapters=["a", "c", "b"])
    assert logits.shape == (3, 4)
    assert not torch.allclose(logits, model(points, adapters=["a", "a", "b"]), atol=1e-3)


def test_one_adapter_for_all_is_that_adapter_bit_for_bit(small_backbone):
    model = carrying(small_backbone(), [FAMILY["full"], FAMILY["vpt"], FAMILY["dapt"]])
    points = torch.randn(4, 80, 3)
    for name in "abc":
        with torch.no_grad():
            wanted = model.adapters[name](points)
        assert torch.equal(model(points, adapters=[name] * 4), wanted)


@pytest.mark.parametrize("kind", ["part", "semantic"])
def test_labels_of_points(small_backbone, kind):
    sizes = (3, 5, 3)
    if kind == "part":
        tasks, inputs = [dapt.PartSegmentation(2, n) for n in sizes], [torch.tensor([0, 1, 1, 0])]
    else:
        tasks, inputs = [dapt.SemanticSegmentation(n) for n in sizes], []
    model = carrying(small_backbone(), KINDS["dapt"], tasks)
    points, queries = torch.randn(4, 80, 3), torch.randn(4, 30, 3)
    names = ["c", "b", "a", "b"]
    for more, count in ((None, 80), (queries, 30)):
        got = model(points, *inputs, queries=more, adapters=names)
        wanted = one_at_a_time(model, points, names, *inputs, queries=more)
        assert [row.shape for row in got] == [(count, n) for n in (3, 5, 3, 5)]
        for mine, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_heads_that_read_different_blocks(small_backbone):
    tasks = [dapt.SemanticSegmentation(3), dapt.Classification(4), dapt.SemanticSegmentation(3)]
    model = carrying(small_backbone(), KINDS["vpt"], tasks)
    points, names = torch.randn(3, 80, 3), ["b", "a", "c"]
    got = model(points, adapters=names)
    for mine, theirs in zip(got, one_at_a_time(model, points, names), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "method", [m for m in FAMILY if m not in {"adapter", "dapt", "linear", "prefix", "vpt"}]
)
def test_the_others_refuse_in_a_sentence(small_backbone, method):
    if method in ("dapt, low memory", "dapt, positions in each block", "peft:lora"):
        return
    model = dapt.attach(small_backbone(), FAMILY[method], dapt.Classification(3), "a")
    model.add_adapter("b", FAMILY[method], dapt.Classification(3))
    with pytest.raises(UsageError, match="cannot share a batch") as error:
        model.eval()(torch.randn(2, 80, 3), adapters=["a", "b"])
    assert "\n" not in str(error.value)


def test_bad_calls(small_backbone):
    model = carrying(small_backbone(), KINDS["vpt"])
    points = torch.randn(2, 80, 3)
    with pytest.raises(UsageError, match="adapters must name one for each of 2 clouds, got 3"):
        model(points, adapters=["a", "b", "c"])
    with pytest.raises(UsageError, match="got 'ab'"):
        model(points, adapters="ab")
    with pytest.raises(UsageError, match="no adapter named 'z'; it carries a, b, c"):
        model(points, adapters=["a", "z"])
    with pytest.raises(UsageError, match=r"model.eval\(\)"):
        model.train()(points, adapters=["a", "b"])
    assert model.eval()(points[:0], adapters=[]) == []


def test_packed_backbones_refuse(small_backbone):
    model = dapt.attach(small_backbone("ptv3_tiny"), dapt.Dapt(rank=3), dapt.Classification(3), "a")
    model.add_adapter("b", dapt.Dapt(rank=3), dapt.Classification(3))
    with pytest.raises(UsageError, match="keeps the tokens of all clouds in one row"):
        model.eval()(torch.randn(2, 80, 3), adapters=["a", "b"])


def test_moves_and_changes_of_weights_are_seen(small_backbone):
    model = carrying(small_backbone(), KINDS["dapt"])
    points, names = torch.randn(3, 80, 3), ["a", "b", "c"]
    before = model(points, adapters=names)
    model.double()
    for single, double in zip(before, model(points.double(), adapters=names), strict=True):
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)
    randomize(model)  # changes the active adapter, "c"
    after = model(points.double(), adapters=names)
    assert torch.equal(after[0], model(points.double(), adapters=["a", "b", "b"])[0])
    assert not torch.allclose(after[2].float(), before[2], atol=1e-3)


def test_copies_of_the_last_adapters_serve_the_next_calls(small_backbone, monkeypatch):
    model = carrying(small_backbone(), KINDS["dapt"])
    points = torch.randn(3, 80, 3)
    wanted = {name: one_at_a_time(model, points, [name] * 3) for name in "abc"}

    def check(names):
        for b, row in enumerate(model(points[: len(names)], adapters=list(names))):
            torch.testing.assert_close(row, wanted[names[b]][b], rtol=1e-4, atol=1e-4)

    check("ab")  # fills two rows
    check("bca")  # adds a third
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda rows: pytest.fail("copied once more"))
    for names in ("bca", "cb", "aca"):
        check(names)
    monkeypatch.setattr(torch, "stack", stack)
    for name in "ab":  # neither is active
        with torch.no_grad():
            for value in model.adapters[name].own_entries.values():
                value.mul_(1.1)
        wanted[name] = one_at_a_time(model, points, [name] * 3)
        check("bca")


def test_more_adapters_than_are_kept(small_backbone, monkeypatch):
    monkeypatch.setattr(side_by_side, "MOST_KEPT", 2)
    model = carrying(small_backbone(), KINDS["dapt"])
    points = torch.randn(3, 80, 3)
    for names in ("abc", "ab", "cb", "cab"):
        got = model(points[: len(names)], adapters=list(names))
        wanted = one_at_a_time(model, points[: len(names)], names)
        for mine, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        ((network,),) = model._mixtures._idle.values()
        assert len(network._kept) <= 2
        assert all(place.stack is None or len(place.stack) <= 2 for place in network._places)


def test_adding_replacing_and_removing_change_no_call(small_backbone, tmp_path, one_thread):
    model = carrying(small_backbone(), KINDS["dapt"])
    model.save_adapter(tmp_path, "c")
    points, names = torch.randn(4, 80, 3), ["a", "b", None, "a"]
    wanted = model(points, adapters=names)
    with_c = model(points, adapters=["c", "b", None, "a"])
    done, found, mistakes = threading.Event(), [], []

    def go_on_calling():
        try:
            for i in range(12):
                ours = ["c", "b", None, "a"] if i % 3 == 0 else names
                found.append((i % 3 == 0, model(points, adapters=ours)))
        except Exception as error:
            mistakes.append(error)

    def go_on_changing():
        while not done.is_set():
            model.load_adapter(tmp_path, "d", activate=False)
            model.load_adapter(tmp_path, "c", replace=True, activate=False)
            model.delete_adapter("d")

    callers = [threading.Thread(target=go_on_calling) for _ in range(3)]
    changer = threading.Thread(target=go_on_changing)
    for thread in (*callers, changer):
        thread.start()
    for thread in callers:
        thread.join()
    done.set()
    changer.join()
    assert not mistakes and len(found) == 36
    for has_c, rows in found:
        for mine, theirs in zip(rows, with_c if has_c else wanted, strict=True):
            assert torch.equal(mine, theirs)


def test_a_deleted_adapter_leaves_nothing_behind(small_backbone):
    import gc
    import weakref

    model = carrying(small_backbone(), KINDS["dapt"])
    model(torch.randn(3, 80, 3), adapters=["a", "b", "c"])
    gone = weakref.ref(model.adapters["a"].own_entries["cls_token"])
    model.delete_adapter("a")
    gc.collect()
    assert gone() is None


def test_names_of_many_adapters_are_cut():
    table = {f"adapter-{number}": None for number in range(1000)}
    with pytest.raises(UsageError, match="adapter-19 and 980 more") as error:
        named(table, "mine")
    assert len(str(error.value)) < 400
