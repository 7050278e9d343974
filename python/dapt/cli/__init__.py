"""The command line, one file per command: `run(argv)` reads its arguments and prints.

`dapt --help` is quick because heavy imports wait until a command needs them.
"""

import importlib
import logging
import os
import sys
import time

from dapt.cli.completion import is_asked, words_so_far
from dapt.errors import DaptError, look_up, missing_package, said_of_the_machine, shown
from dapt.plugins import import_module, noted, taken
from dapt.runs.children import end_with_parent
from dapt.version import __version__

COMMANDS = {
    "train": "adapt a backbone to a dataset",
    "pretrain": "pre-train a backbone by hiding patches",
    "evaluate": "score a run's model on its test or validation split",
    "predict": "label files of points with a run's model",
    "compare": "train several methods with several seeds and compare them in a table",
    "view": "show clouds in 3D, with a run's predictions",
    "report": "summarize runs in one page: scores, curves, classes, memory, a gallery",
    "export": "write a run's model as one file for Python and C++, or for ONNX",
    "serve": "serve runs' models over HTTP",
    "info": "explain an adapter folder, or count a model's parameters, memory and arithmetic",
    "doctor": "list what is installed, and which features lack a package",
}

LONGEST = 1000  # characters in an error message
AFTER_FIRST = 8.0  # seconds: the first process reports an error that ends all of them
RESUMED = ("train", "pretrain")
NOTING = (*RESUMED, "compare")  # commands whose runs record the modules they need

USAGE = f"""\
usage: dapt COMMAND [options]

Adapt a frozen, pre-trained point-cloud transformer by training a few percent of it.

commands:
{"".join(f"  {name:10} {what}{chr(10)}" for name, what in COMMANDS.items())}
dapt COMMAND --help shows the options of a command, dapt --version the version.
dapt COMMAND --import MODULE imports methods, datasets, backbones or tasks of your own.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: The command and its arguments; None for those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if is_asked():
        argv = words_so_far(COMMANDS)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"dapt {__version__}")
        return 0
    command, *rest = argv
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Shown("%(message)s"))
    logging.getLogger("dapt").setLevel(logging.INFO if _is_first() else logging.ERROR)
    end_with_parent()
    try:
        look_up("command", command, COMMANDS)
        rest, modules = taken(rest)
        modules = [import_module(module) for module in modules]
        if modules and command in NOTING:
            rest.append(noted(modules))
        importlib.import_module(f"dapt.cli.{command}").run(rest)
    except DaptError as error:
        return _say(command, _own_words(error), error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("dapt", "dapt_ext"):
            raise
        return _say(command, f"needs {missing_package(error)}", 1)
    except BrokenPipeError:  # the reader of the output closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _say(command, "interrupted", 130)
    except (MemoryError, OSError, RuntimeError) as error:
        sentence = said_of_the_machine(error)
        if sentence is None and isinstance(error, OSError):
            named = f"{error.filename}: " if error.filename else ""
            return _say(command, f"{named}{error.strerror or error}", 1)
        if sentence is None:
            raise
        more = "; --resume continues from the last checkpoint" if command in RESUMED else ""
        return _say(command, sentence + more, 1)
    return 0


class _Shown(logging.Formatter):
    """Makes names from files safe to print."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            args = (shown(each) if isinstance(each, str) else each for each in record.args)
            record = logging.makeLogRecord(vars(record) | {"args": tuple(args)})
        return "\n".join(map(shown, super().format(record).split("\n")))


def _own_words(error: DaptError) -> str:
    """The sentence alone, also for an error from a process that loads data."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2] if text.startswith("Caught ") else text


def _is_first() -> bool:
    """Whether this process reports for all processes of a training."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))


def _say(command: str, sentence: str, code: int) -> int:
    if not _is_first():
        time.sleep(AFTER_FIRST)
    sentence = " ".join(sentence.split())
    if len(sentence) > LONGEST:
        sentence = f"{sentence[: LONGEST * 2 // 3]} ... {sentence[-LONGEST // 3 :]}"
    print(shown(f"dapt {command[:LONGEST]}: {sentence}"), file=sys.stderr)
    return code
