"""Gather everything that a report says about some runs, before it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dapt.data import PointDataset
from dapt.errors import DaptError
from dapt.progress import watched
from dapt.runs.assembly import restore_model
from dapt.runs.cost import measure as measure_cost
from dapt.runs.settings import Section
from dapt.view.clouds import Cloud
from dapt.view.evidence import Evidence, dataset_of, gather
from dapt.view.observer import Observer
from dapt.view.portrayal import Names, Portrayal
from dapt.view.records import Group, Record, comparable, grouped, read_records
from dapt.view.subjects import of_rows

COUNTED_BATCH = 8  # clouds per batch when comparing the memory of methods
SIDE_BY_SIDE = ("full", "dapt", "reversible")  # figure 2c of the paper
GALLERY = 12  # clouds, half of them wrong if there are enough

Say = Callable[[str], None]


@dataclass
class Findings:
    """What is known about the runs.

    Args:
        groups: The groups of runs, best first.
        metric: The score that they have in common.
        evidence: The evidence by group name, for groups whose model could run on its data.
        class_names: The names of the classes or point labels.
        split: The split that the evidence is from.
        samples: The number of samples in the evidence.
        of_samples: The number of samples in the split.
        memory: (method, bytes kept for the backward, whether it was trained), for one batch.
        gallery: Clouds with the predictions of a model.
        names: The tables of names for the gallery.
        shown: The group whose model the gallery shows.
        notes: What could not be determined, and why.
    """

    groups: Sequence[Group]
    metric: str
    evidence: dict[str, Evidence] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    split: str = "test"
    samples: int = 0
    of_samples: int = 0
    memory: list[tuple[str, int, bool]] = field(default_factory=list)
    gallery: list[Cloud] = field(default_factory=list)
    names: Names = field(default_factory=dict)
    shown: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def is_of_points(self) -> bool:
        """Whether the score is about labels of points."""
        return self.metric.endswith("miou")

    def series(self, group: Group) -> int:
        """The index of a group's color in all charts.

        Args:
            group: One of `groups`.
        """
        return [each.name for each in self.groups].index(group.name)


def find(paths: Sequence[Path], limit: int | None, look: bool, say: Say) -> Findings:
    """Read the runs, and run their models on their data.

    Args:
        paths: Run folders, or folders that contain runs.
        limit: The largest number of samples per model; all by default.
        look: Whether models are run at all.
        say: Called with a description of each step that takes time.
    """
    records = read_records(paths)
    findings = Findings(grouped(records), comparable(records))
    if look:
        for group in watched(findings.groups, "models", len(findings.groups)):
            if group.complete and group.complete[0].settings.method is not None:
                _look(findings, group, limit, say)
        _count_memory(findings, say)
        _fill_gallery(findings, limit, say)
    return findings


def _look(findings: Findings, group: Group, limit: int | None, say: Say) -> None:
    record = _shown_run(group)
    try:
        split, whole = dataset_of(record.folder, None)
        split, dataset = dataset_of(record.folder, limit)
        say(f"{group.name}: {len(dataset):,} samples of the {split} split")
        findings.evidence[group.name] = gather(record.folder, dataset, split)
    except (DaptError, OSError) as error:
        findings.notes.append(f"{group.name}: its model could not run on its data: {error}")
        return
    names = dataset.part_names if findings.is_of_points else dataset.class_names
    findings.class_names = findings.class_names or tuple(names)
    findings.split, findings.samples = split, len(dataset)
    findings.of_samples = len(whole)


def _shown_run(group: Group) -> Record:
    """The run that represents a group: its first seed, and the first fold if there are folds."""
    record = group.complete[0]
    fold = record.folder.path / "fold_0"
    return Record.read(fold) if (fold / "config.yaml").is_file() else record


def _count_memory(findings: Findings, say: Say) -> None:
    """Count the bytes kept for the backward of one batch, for the runs' and the paper's methods."""
    trained = [group for group in findings.groups if group.complete and group.first.settings.method]
    if not trained:
        return
    say("memory of the methods side by side")
    first = trained[0].first.settings
    methods = {group.name: (group.first.settings.method, True) for group in trained}
    present = {section.name for section, _ in methods.values()}
    for name in SIDE_BY_SIDE:
        if name not in present:
            methods[name] = (Section(name), False)
    count = max(len(findings.class_names), 2)
    for name, (method, is_trained) in methods.items():
        try:
            cost = measure_cost(
                first.backbone,
                method,
                first.task,
                num_classes=count,
                num_parts=count,
                num_points=first.training.num_points or 1024,
                batch_size=COUNTED_BATCH,
            )
        except DaptError:
            continue  # the method does not work on this backbone
        findings.memory.append((name, cost["saved_activation_bytes"], is_trained))


def _fill_gallery(findings: Findings, limit: int | None, say: Say) -> None:
    """Show right and wrong answers of the best model, preferably one with dynamic adapters."""
    looked = [group for group in findings.groups if group.name in findings.evidence]
    if not looked:
        return
    dynamic = [g for g in looked if findings.evidence[g.name].scale_mean.size]
    group = (dynamic or looked)[0]
    say(f"gallery of {group.name}")
    record = _shown_run(group)
    _, dataset = dataset_of(record.folder, limit)
    model = restore_model(record.folder)
    portrayal = Portrayal(model.adapter.task.label_names)
    observer = Observer(model, record.settings)
    rows = chosen(findings.evidence[group.name])
    subjects = watched(of_rows(dataset, rows), "gallery", len(rows))
    for row, subject in zip(rows, subjects, strict=True):
        cloud = portrayal.cloud(subject, observer.look(subject, is_sample=True))
        cloud.facts.lines.extend(_said_by_others(findings, looked, group, dataset, row))
        findings.gallery.append(cloud)
    findings.names, findings.shown = portrayal.names(), group.name


def chosen(evidence: Evidence) -> list[int]:
    """Choose samples for the gallery: half of them wrong, most confident first; half right, from
    different classes.

    Args:
        evidence: The evidence of a model.
    """
    if (evidence.predicted < 0).all():  # labels of points: from the worst to the best
        order = np.argsort(evidence.right, kind="stable")
        places = np.linspace(0, len(order) - 1, min(GALLERY, len(order))).round().astype(int)
        return order[np.unique(places)].tolist()
    surest = np.argsort(-evidence.confidence, kind="stable")
    wrong = [int(i) for i in surest if evidence.right[i] < 1]
    right = [int(i) for i in surest if evidence.right[i] == 1]
    right = _varied(right, evidence.truth)
    few = min(len(wrong), max(GALLERY // 2, GALLERY - len(right)))
    return [*_varied(wrong, evidence.truth)[:few], *right[: GALLERY - few]]


def _varied(rows: Sequence[int], classes: np.ndarray) -> list[int]:
    """Order rows so that one of each class comes first, then a second one of each, and so on."""
    turn: dict[int, int] = {}
    turns = []
    for row in rows:
        number = int(classes[row])
        turns.append(turn.get(number, 0))
        turn[number] = turns[-1] + 1
    return [row for _, row in sorted(zip(turns, rows, strict=True), key=lambda pair: pair[0])]


def _said_by_others(
    findings: Findings, looked: Sequence[Group], shown: Group, dataset: PointDataset, row: int
) -> list[tuple[str, str]]:
    """The predictions of the other models for the same sample."""
    lines = []
    for group in looked:
        evidence = findings.evidence[group.name]
        same = np.array_equal(evidence.truth, findings.evidence[shown.name].truth)
        if group is shown or not same or evidence.predicted[row] < 0:
            continue
        answer = dataset.class_names[evidence.predicted[row]]
        lines.append((group.name, f"{answer}, {100 * evidence.confidence[row]:.0f} %"))
    return lines
