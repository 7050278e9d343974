"""A report says what the files and models of the runs say, and nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from dapt import cli
from dapt.errors import UsageError
from dapt.view.axes import Axis, percent, plain_number
from dapt.view.evidence import dataset_of, gather
from dapt.view.findings import chosen
from dapt.view.records import grouped, read_records
from dapt.view.report import Report
from dapt.view.sections import summary_table
from dapt.view.svg import Chart, Dot, Line, apart
from dapt.view.tables import Column, Table
from support.runs import TINY, clouds, labeled

HOSTILE = ["</script><script>window.hacked = 1</script>", "\x1b[31mred\nline", "a & <b> | c_d"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of DAPT and one linear probe, with hostile class names."""
    folder = tmp_path_factory.mktemp("runs")
    names = {"class_names": np.array(HOSTILE)}
    train = clouds(folder / "a.npz", **names)
    test = clouds(folder / "b.npz", samples=24, seed=1, **names)
    for method, seed in (("dapt", 0), ("dapt", 1), ("linear", 0)):
        tree = TINY | {"epochs": 2, "precision": "fp32"}
        if method != "dapt":
            tree = tree | {"method": {"name": method}}
        (folder / "c.yaml").write_text(yaml.safe_dump(tree))
        out = folder / "runs" / method / f"seed_{seed}"
        words = ["--config", str(folder / "c.yaml"), "--data.train", str(train)]
        words += ["--data.test", str(test), "--seed", str(seed), "--out", str(out)]
        assert cli.main(["train", *words]) == 0
    return folder / "runs"


@pytest.fixture(scope="module")
def report(runs):
    return Report.of([runs])


def result(runs, method, seed):
    return json.loads((runs / method / f"seed_{seed}" / "result.json").read_text())


def test_seeds_are_one_group(runs):
    groups = {group.name: group for group in grouped(read_records([runs]))}
    assert set(groups) == {"dapt", "linear"}
    scores = [result(runs, "dapt", seed)["accuracy"] for seed in (0, 1)]
    assert groups["dapt"].mean("accuracy") == pytest.approx(np.mean(scores))
    assert groups["dapt"].spread("accuracy") == pytest.approx(np.std(scores, ddof=1))
    assert groups["linear"].spread("accuracy") is None
    curve = groups["dapt"].curve("train_loss")
    assert [epoch for epoch, *_ in curve] == [1, 2] and all(a <= m <= b for _, m, a, b in curve)


def test_groups_of_one_method_are_told_apart_by_what_differs(runs, tmp_path):
    first = yaml.safe_load((runs / "dapt/seed_0/config.yaml").read_text())
    for name, rank in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        tree = first | {"method": first["method"] | {"rank": rank}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(tree))
    names = [group.name for group in grouped(read_records([tmp_path]))]
    assert names == ["dapt, rank=3", "dapt, rank=5"]


def test_the_table_has_the_numbers_of_the_results(runs, report):
    table = summary_table(report.findings)
    row = next(row for row in table.rows if row[0] == "linear")
    wanted = result(runs, "linear", 0)
    cells = dict(zip([column.title for column in table.columns], row, strict=True))
    assert cells["accuracy"] == pytest.approx(wanted["accuracy"])
    assert cells["trained"] == wanted["trainable_parameters"]
    assert cells["kept for backward"] == pytest.approx(wanted["saved_activation_bytes"] / 2**20)


def test_the_models_are_seen_to_answer_as_they_were_scored(runs, report):
    for name in ("dapt", "linear"):
        evidence, wanted = report.findings.evidence[name], result(runs, name, 0)
        assert evidence.confusion.sum() == 24
        accuracy = np.trace(evidence.confusion) / 24
        assert accuracy == pytest.approx(wanted["accuracy"]) == evidence.right.mean()
        assert evidence.calibration[:, 0].sum() == 24
        assert evidence.calibration[:, 1].sum() == np.trace(evidence.confusion)
    assert report.findings.evidence["dapt"].scale_mean.shape == (2,)
    assert report.findings.evidence["linear"].scale_mean.shape == (0,)


def test_evidence_is_kept_until_the_adapter_changes(runs, monkeypatch):
    from dapt.runs.folder import RunFolder
    from dapt.view import evidence

    folder = RunFolder(runs / "linear" / "seed_0")
    split, dataset = dataset_of(folder, None)
    before = gather(folder, dataset, split)
    monkeypatch.setattr(evidence, "measure", lambda *_: pytest.fail("measured again"))
    again = gather(folder, dataset, split)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(vars(before).values(), vars(again).values(), strict=True)
    )
    with pytest.raises(pytest.fail.Exception):  # different data
        gather(folder, dataset_of(folder, 5)[1], split)
    (folder.path / "evidence.npz").write_bytes(b"damaged")
    with pytest.raises(pytest.fail.Exception):
        gather(folder, dataset, split)


def test_the_gallery_has_right_and_wrong_answers(report):
    assert len(report.findings.gallery) == 12 and report.findings.shown == "dapt"
    evidence = report.findings.evidence["dapt"]
    rows = chosen(evidence)
    assert len(set(rows)) == 12
    wrong = [evidence.right[row] < 1 for row in rows]
    assert wrong == sorted(wrong, reverse=True)
    for cloud, row in zip(report.findings.gallery, rows, strict=True):
        assert cloud.facts.verdict == ("right" if evidence.right[row] else "wrong")
        assert "linear" in dict(cloud.facts.lines)


def test_paper_and_readme_tables_are_safe_to_paste(report):
    markdown, latex = report.markdown(), report.latex()
    assert (
        r"a & \<b\> \| c\_d" in markdown and "<script>" not in markdown and "\x1b" not in markdown
    )
    assert r"a \& \textless{}b\textgreater{} | c\_d" in latex and "\x1b" not in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    for line in latex.splitlines():
        if line.strip().endswith(r"\\"):
            assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")


def test_best_values_are_marked_and_ties_share():
    columns = [Column("m"), Column("score", "percent", "high"), Column("cost", "number", "low")]
    rows = [["a", (0.5, 0.01), 3.0], ["b", 0.7, 1.04], ["c", 0.7004, 1.0], ["d", None, None]]
    table = Table("t", "caption", columns, rows)
    assert table.best() == {(1, 1), (2, 1), (1, 2), (2, 2)}
    assert "| a | 50.0 ± 1.0 | 3.0 |" in table.markdown() and "**70.0**" in table.markdown()
    assert r"$50.0 \pm 1.0$" in table.latex() and r"$\mathbf{70.0}$" in table.latex()
    by_row = Table("t", "c", [columns[0], columns[1], columns[1]], [["a", 0.1, 0.2]], True)
    assert by_row.best() == {(0, 2)}


def test_charts_keep_their_marks_inside_and_their_labels_apart():
    lines = [Line(f"method {i}", [(1, 0.5), (2, 0.5 + i / 1e4)], i) for i in range(6)]
    drawn = Chart("c", Axis("x"), Axis("y", format=percent), lines=lines).svg()
    places = sorted(
        float(y) for y in re.findall(r'class="label s\d" x="[\d.]+" y="([\d.]+)"', drawn)
    )
    assert len(places) == 6 and min(np.diff(places)) >= 12.9
    dots = [Dot("a", 1e3, 0.5, 0.1, 0), Dot("b", 1e6, 0.9, 0.0, 1)]
    drawn = Chart("c", Axis("x", log=True), Axis("y"), dots=dots).svg()
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', drawn):
        assert 0 < float(x) < 560 and 0 < float(y) < 320
    assert apart([5, 5, 5], 10, 0, 100) == [5, 15, 25]
    assert apart([95, 96, 97], 10, 0, 100) == [80, 90, 100]
    assert Chart("empty", Axis(), Axis()).svg().startswith("<svg")


@pytest.mark.parametrize(
    "value, words",
    [(0, "0"), (0.303, "0.303"), (1991, "1,991"), (2.5e6, "2.5 M"), (12345, "12.3k")],
)
def test_numbers_in_words(value, words):
    assert plain_number(value).replace(" k", "k") == words


def test_the_command_writes_page_and_tables(runs, tmp_path, capsys):
    out = tmp_path / "r.html"
    assert cli.main(["report", str(runs), "--out", str(out), "--latex", "--markdown"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "r.md", "r.tex"}
    assert "<script>window.hacked" not in out.read_text()
    said = capsys.readouterr().out
    assert all(
        f"{path}: {path.stat().st_size / 1e3:,.0f} kB" in said for path in tmp_path.iterdir()
    )


def test_files_alone_are_enough(runs, tmp_path):
    report = Report.of([runs], look=False)
    keys = [section.key for section in report.sections]
    assert keys == ["summary", "learning", "trade-off", "costs", "classes", "settings"]


def test_lost_data_is_said_and_the_rest_is_told(runs, tmp_path):
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(runs / "linear" / "seed_0", moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["train"] = config["data"]["test"] = str(tmp_path / "lost.npz")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    report = Report.of([moved])
    assert "could not run on its data" in report.findings.notes[0]
    assert "lost.npz" in report.page() and not report.findings.gallery


def test_mistakes_are_said(tmp_path, capsys):
    with pytest.raises(UsageError, match="holds no run"):
        read_records([tmp_path])
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_pretraining_has_a_report(run, one_thread):
    folder, code = run("pre", command="pretrain", num_points=24, epochs=2)
    assert code == 0
    report = Report.of([folder])
    assert {"learning", "settings"} <= {section.key for section in report.sections}
    assert "dapt pretrain" in report.page()


def test_segmentation_has_a_report(tmp_path, one_thread):
    train = labeled(tmp_path / "a.npz")
    tree = TINY | {"epochs": 1, "task": {"name": "part_segmentation"}, "num_points": 32}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    words = ["--config", str(tmp_path / "c.yaml"), "--data.train", str(train)]
    assert cli.main(["train", *words, "--out", str(tmp_path / "run")]) == 0
    report = Report.of([tmp_path / "run"])
    evidence = report.findings.evidence["dapt"]
    assert report.findings.split == "validation" and (evidence.predicted == -1).all()
    assert evidence.confusion.shape == (7, 7) and evidence.confusion.sum() == 40 * len(
        evidence.truth
    )
    keys = {channel.key for channel in report.findings.gallery[0].channels}
    assert keys >= {"predicted", "confidence", "outcome", "label", "scale"}


def test_in_a_browser(visit, report):
    seen = visit(report.page(), 1280, 900)
    assert seen.errors == [] and seen.run("window.hacked") is None
    assert not [url for url in seen.requests if not url.startswith(("file:", "data:"))]
    assert HOSTILE[0] in seen.page.locator("#classes").inner_text()
    assert r"\x1b[31mred\nline" in seen.page.locator("#classes").inner_text()

    rows = (
        "[...document.querySelectorAll('#table-summary tbody tr')].map(r => r.cells[0].innerText)"
    )
    heads = seen.page.locator("#table-summary thead button")
    trained = {"dapt": 0, "linear": 0}
    for record in report.findings.groups:
        trained[record.name] = record.cost("trainable_parameters")
    heads.filter(has_text="trained").click()
    assert seen.run(rows) == sorted(trained, key=trained.get, reverse=True)
    heads.filter(has_text="trained").click()
    assert seen.run(rows) == sorted(trained, key=trained.get)
    heads.filter(has_text="method").click()
    assert seen.run(rows) == ["dapt", "linear"]
    heads.filter(has_text="method").click()
    assert seen.run(rows) == ["linear", "dapt"]

    box = seen.page.locator("#settings input[type=search]")
    box.fill("rank")
    shown = seen.page.locator("#table-differences tbody tr:visible").all_inner_texts()
    assert 1 <= len(shown) < seen.page.locator("#table-differences tbody tr").count()

    panels = seen.page.locator("#tabs-confusion > section")
    assert [panel.is_visible() for panel in panels.all()] == [True, False]
    seen.page.locator("#tabs-confusion button").nth(1).click()
    assert [panel.is_visible() for panel in panels.all()] == [False, True]

    seen.page.locator("#gallery").scroll_into_view_if_needed()
    seen.page.wait_for_selector(".card[data-drawn]")
    picture = seen.colors(".card[data-drawn] canvas")
    assert (np.abs(picture.astype(int) - picture[2, 2]).sum(2) > 60).mean() > 0.005
    seen.page.click(".filters button:has-text('right')")
    assert seen.page.locator(".card.wrong:visible").count() == 0
    seen.page.locator(".card:visible").first.click()
    seen.page.wait_for_selector("dialog[open] .panel h1")
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_selector("dialog[open]", state="hidden")
    assert seen.errors == []


def test_phone_dark_and_paper(visit, report):
    seen = visit(report.page(), 390, 844, scheme="dark", is_mobile=True)
    assert seen.run("document.documentElement.scrollWidth") <= 390
    seen.page.emulate_media(media="print")
    assert seen.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(panel.is_visible() for panel in seen.page.locator("#tabs-confusion > section").all())
    assert not seen.page.locator("nav").is_visible()


def test_contrast_and_names_for_those_who_do_not_see(visit, report):
    script = (Path(__file__).parents[1] / "support" / "contrast.js").read_text()
    for scheme in ("light", "dark"):
        seen = visit(report.page(), scheme=scheme)
        assert seen.run(script) == []
        for drawing in seen.page.locator("svg:not([aria-hidden])").all():
            assert drawing.get_attribute("aria-label")
        for control in seen.page.locator("button, input").all():
            assert control.text_content().strip() or control.get_attribute("aria-label")
