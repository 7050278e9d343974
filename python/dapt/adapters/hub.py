"""Adapters on a hub: fetched at a commit, pushed with a card that describes them.

Only two files are fetched, JSON and safetensors, both from the same commit.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from dapt.adapters import adapter_files
from dapt.adapters.bounds import SMALLEST, SPARE
from dapt.adapters.description import describe, named_backbone, shipped_backbone
from dapt.errors import DaptError, UsageError, shown
from dapt.models import create_backbone
from dapt.models.create import backbone_config
from dapt.models.pretrained import SHIPPED
from dapt.models.sources import HUB, asking_hub, local_file

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

log = logging.getLogger("dapt")


@dataclass(frozen=True)
class Provenance:
    """What is known about the training of an adapter, for its card.

    Args:
        data: The name of the data, without local folders.
        metrics: Scores by name, the main one first.
        split: The split of the data on which the scores were measured.
    """

    data: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    split: str | None = None


@dataclass(frozen=True)
class Fetched:
    """The local files of an adapter at a commit.

    Args:
        folder: The folder of the two files.
        source: Their location, hf://owner/repository@commit.
    """

    folder: Path
    source: str


def fetch(repository: str, revision: str | None = None, token: str | None = None) -> Fetched:
    """Download an adapter into the hub's cache.

    Args:
        repository: "owner/repository".
        revision: A commit, a tag or a branch; None for the newest commit.
        token: The access token for a private repository; by default that of the hub's login.
    """
    _check_name(repository)
    asked = HUB + repository + (f"@{revision}" if revision else "")
    with asking_hub(asked, "fetched"):
        from huggingface_hub import hf_hub_download

        commit = _commit_of(repository, revision, token)
        for name in adapter_files.NAMES:
            path = hf_hub_download(repository, name, revision=commit, token=token)
    if revision != commit:
        log.warning(
            "%s is at commit %s; revision=%r pins it, whatever is pushed later",
            asked,
            commit,
            commit,
        )
    return Fetched(Path(path).parent, f"{HUB}{repository}@{commit}")


def _commit_of(repository: str, revision: str | None, token: str | None) -> str:
    """The commit that a revision refers to now, or in the cache if there is no network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if COMMIT.fullmatch(revision or ""):
        return revision
    try:
        url = hf_hub_url(repository, adapter_files.CONFIG, revision=revision)
        return get_hf_file_metadata(url, token=token).commit_hash
    except Exception:  # if the cache does not help, the next line raises the actual error
        path = hf_hub_download(repository, adapter_files.CONFIG, revision=revision, token=token)
        return Path(path).parent.name


def backbone_for(fetched: Fetched, checkpoint: str | os.PathLike | None) -> nn.Module:
    """Create the backbone that a fetched adapter was trained on.

    Args:
        fetched: The adapter.
        checkpoint: The backbone's weights; None if they come with the package.
    """
    file = adapter_files.read(fetched.folder)
    if checkpoint is None:
        backbone = shipped_backbone(file)
        if backbone is None:
            record = file.backbone
            raise UsageError(
                f"{fetched.source} is an adapter for a {record.kind} whose weights do not come "
                f"with the package (fingerprint {record.fingerprint[:12]}): name their file with "
                "checkpoint=, or pass the network as backbone="
            )
        return backbone
    named = named_backbone(file.backbone)
    if named is None:
        raise UsageError(
            f"{fetched.source} is an adapter for a {file.backbone.kind} that has no name here: "
            "pass the network as backbone="
        )
    name, fields = named
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    _check_size(name, fields, local_file(checkpoint), fetched.source)
    return create_backbone(name, checkpoint, **fields)


def _check_size(name: str, fields: Mapping[str, object], checkpoint: str, source: str) -> None:
    """Check that untrusted settings do not describe a network too large for the checkpoint."""
    try:
        with torch.device("meta"):
            planned = backbone_config(name, **fields).build()
    except DaptError:
        raise
    except Exception as error:
        raise DaptError(f"{source} has settings that no network can have: {error}") from None
    numbers = sum(value.numel() for value in planned.state_dict().values())
    if os.path.isfile(checkpoint) and numbers > SPARE * os.path.getsize(checkpoint) + SMALLEST:
        raise DaptError(f"{source} describes a larger network than the one in {checkpoint}")


def push(
    repository: str,
    folder: Path,
    card: str,
    *,
    revision: str | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Adapter of dapt",
) -> str:
    """Push an adapter's files and its card to a repository in one commit, and return the commit.

    Args:
        repository: "owner/repository", which is created if it does not exist.
        folder: The folder of the files.
        card: The text of README.md.
        revision: The branch; None for the main branch.
        private: Whether a new repository is private.
        token: The hub's access token; by default that of the hub's login.
        message: The message of the commit.
    """
    _check_name(repository)
    with asking_hub(HUB + repository, "pushed to"):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(token=token)
        files = {name: (folder / name).read_bytes() for name in adapter_files.NAMES}
        files["README.md"] = card.encode()
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(
            repository, operations, commit_message=message, revision=revision
        )
    log.info("%s%s@%s", HUB, repository, commit.oid)
    return commit.oid


def card(
    repository: str,
    folder: Path,
    known: Provenance,
    license: str | None = None,
    backbone_license: str | None = None,
) -> str:
    """Write README.md for an adapter: what it is, how well it scores, how to load it.

    Args:
        repository: The repository that it will be pushed to.
        folder: The folder of its files.
        known: What is known about its training.
        license: The license of the adapter in the hub's notation, such as "mit".
        backbone_license: The license of the backbone's weights, if it is restrictive.
    """
    file, told = adapter_files.read(folder), describe(folder)
    with asking_hub(HUB + repository, "described"):
        from huggingface_hub import ModelCardData

        kinds = (file.method.name.replace(":", "-"), file.task.name.replace("_", "-"))
        metadata = ModelCardData(
            library_name="dapt",
            license=license,
            tags=["dapt", "point-cloud", *kinds],
            eval_results=_results(known, file.task.name),
            model_name=repository.partition("/")[2],
        ).to_yaml()
    is_shipped = f'checkpoint="{SHIPPED}"' in told.pop("load it")
    checkpoint = "" if is_shipped else ', checkpoint="pretrain.pth"'
    told["data"] = known.data or "not told"
    for name, value in known.metrics.items():
        told[name] = f"{value:.4f}" + (f" on the {known.split} split" if known.split else "")
    told["license"] = license or "not told"
    if backbone_license is not None:
        told["license of the backbone's weights"] = backbone_license
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in told.items())
    arguments = f'"{repository}", revision="main"{checkpoint}'
    page = _PAGE.format(name=repository, rows=rows, arguments=arguments)
    return f"---\n{metadata}\n---\n\n{page}"


_PAGE = """\
# {name}

An adapter for a frozen, pre-trained point-cloud transformer, made with `dapt`. It contains only \
what was trained, not the backbone, whose fingerprint is checked when the adapter is loaded.

| | |
|---|---|
{rows}

```python
import dapt

model = dapt.TrainedModel.from_hub({arguments})
for answer in model.predict(["a.ply", "b.las"]):
    print(answer.where, answer.label, answer.probability)
```

Replace `main` with a commit of this repository to be independent of later pushes.
"""


def _results(known: Provenance, task: str) -> list | None:
    """The scores in the format of the hub's own tables."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=f"point-cloud-{task.replace('_', '-')}",
            dataset_type=known.data or "own",
            dataset_name=known.data or "own data",
            dataset_split=known.split,
            metric_type=name,
            metric_value=value,
        )
        for name, value in known.metrics.items()
    ] or None


def _cell(value: str) -> str:
    return " ".join(map(shown, value.split("\n"))).replace("|", "\\|")


def _check_name(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository) or ".." in repository:
        raise UsageError(f"a repository of a hub is named owner/repository, got {repository!r}")
