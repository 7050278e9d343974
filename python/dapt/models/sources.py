"""Where checkpoints come from: a local file, or a file in a repository on a hub."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dapt.errors import DaptError, UsageError, missing_package

HUB = "hf://"


def local_file(checkpoint: str | os.PathLike) -> str:
    """Return the local path of a checkpoint, downloading a file of a hub into the hub's cache.

    Args:
        checkpoint: A path, or ``hf://owner/repository/file@revision``; the revision defaults to
            the newest.
    """
    source = os.fspath(checkpoint)
    if not source.startswith(HUB):
        return source
    name, _, revision = source.removeprefix(HUB).partition("@")
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file):
        raise UsageError(f"a file of a hub is named hf://owner/repository/file@revision: {source}")
    with asking_hub(source, "fetched"):
        from huggingface_hub import hf_hub_download

        return hf_hub_download(f"{owner}/{repository}", file, revision=revision or None)


@contextmanager
def asking_hub(what: str, done: str) -> Iterator[None]:
    """Turn errors of the hub, the network or the disk into one clear sentence.

    Args:
        what: The name on the hub.
        done: What is being done to it, as a participle such as "fetched".
    """
    try:
        yield
    except DaptError:
        raise
    except ImportError as error:
        raise UsageError(f"{what} needs {missing_package(error)}") from None
    except Exception as error:  # from the network, the hub or the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DaptError(f"{what} cannot be {done}: {reason}") from None
