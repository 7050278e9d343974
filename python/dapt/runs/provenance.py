"""What a run folder tells about its training: data and scores."""

import json
from pathlib import Path

from dapt.adapters.hub import Provenance
from dapt.data.file_dataset import FileDataset
from dapt.runs.folder import RunFolder
from dapt.runs.trees import read_yaml

SCORES = ("accuracy", "miou")  # the names of scores end in one of these


def description(folder: RunFolder) -> dict[str, str]:
    """The data and the score of a run, as far as recorded; empty if there is no run.

    Args:
        folder: The folder of the run.
    """
    rows = {}
    if folder.config.is_file():
        data = read_yaml(folder.config).get("data")
        if isinstance(data, dict):
            fields = {k: v for k, v in data.items() if v is not None and k != "name"}
            listed = ", ".join(f"{key}={value}" for key, value in fields.items())
            rows["data"] = f"{data.get('name')}: {listed}"
    result = _result(folder)
    if result is not None:
        metric, split, seed = result["metric"], result["split"], result["seed"]
        rows["score"] = f"{metric} {result[metric]:.4f} on the {split} split, seed {seed}"
    return rows


def provenance_of(folder: RunFolder) -> Provenance:
    """The data and the scores of a run for publication, without paths on this machine.

    Args:
        folder: The folder of the run.
    """
    section = folder.settings().data
    files = [Path(section.get(key)).name for key in FileDataset.PATHS if section.get(key)]
    data = f"{section.name} ({', '.join(files)})" if files else section.name
    result = _result(folder)
    if result is None:
        return Provenance(data)
    main = result["metric"]
    scores = {
        key: value
        for key, value in result.items()
        if isinstance(value, float) and key.endswith(SCORES) and "validation" not in key
    }
    return Provenance(data, {main: float(result[main])} | scores, result["split"])


def _result(folder: RunFolder) -> dict | None:
    """The content of result.json; None if it is missing or incomplete."""
    try:
        result = json.loads(folder.result.read_text())
        float(result[result["metric"]]), result["split"], result["seed"]
        return result
    except (OSError, ValueError, KeyError, TypeError):
        return None
