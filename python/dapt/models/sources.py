"""Where checkpoints are: a file of one's own, or one of a hub's repository, if a user names it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dapt.errors import DaptError, UsageError, missing_package

HUB = "hf://"


def local_file(checkpoint: str | os.PathLike) -> str:
    """The path of a checkpoint on this machine; a file of a hub is fetched into the hub's cache.

    Args:
        checkpoint: a path, or ``hf://owner/repository/file@revision``; without a revision, the
            newest.
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
    """Says in a sentence what the hub, the network or the disk refuses.

    Args:
        what: A name on the hub.
        done: What would be done to it: "fetched".
    """
    try:
        yield
    except DaptError:
        raise
    except ImportError as error:
        raise UsageError(f"{what} needs {missing_package(error)}") from None
    except Exception as error:  # of the network, the hub, the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DaptError(f"{what} cannot be {done}: {reason}") from None
