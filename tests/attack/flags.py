"""Every flag of every command, with values that are of the wrong type, out of range or nonsense.

Each call must succeed, or end with an exit code and one sentence, never with a traceback. A
training whose flags are accepted runs one step.
"""

import contextlib
import io
import random
import re
import shutil
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
import yaml

from attack.harness import Budget, Tally, attack
from dapt import cli
from dapt.runs.options import PretrainOptions, TrainOptions
from dapt.runs.parser import build_parser
from dapt.runs.settings import ADAPTATION, PRETRAINING
from dapt.training.loop import Trainer
from support.fixtures import SMALL
from support.runs import TINY, clouds, labeled

SECONDS = 10  # seconds that a call may take
NONSENSE = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1", "2", "7", "-0.5", "0.5", "1.5", "1e400"),
    *(".nan", ".inf", "-.inf"),
    *("18446744073709551616", "-9223372036854775809", "1e38", "1e-300", "null", "none", "true"),
    *("[]", "[1]", "[0]", "[1,2,3]", "[[[", "[-1,-1]", "{}", "{a: 1}", "{a: {b: 1}}", "x", "a,b"),
    *("../..", "/", "/dev/null/x", "\x1b[31m", "é\u202e", "0x10", "*a", "&a [*a]", "!!binary x"),
    *("!!python/object/apply:os.system [true]", "-", "--", "a" * 5000, "name", "~", "@x", "%"),
)
FITTING = {  # what makes a method or a task fit the small clouds
    "ga_prompt": ("--method.prompts", "2"),
    "point_lora": (
        *("--method.groups", "[6,3]", "--method.sizes", "[5,4]", "--method.select", "[2,1]"),
    ),
    "few_shot": (
        *("--task.way", "3", "--task.shot", "3", "--task.queries", "1", "--task.folds", "2"),
        *("--task.fold", "0", "--batch_size", "4"),
    ),
}
SAFE_FOR_EVER = {"--epochs", "--config"}  # many epochs are valid; configs have their own suite


class Taken(BaseException):
    """Raised when the training begins: the values were accepted."""


@dataclass
class Outcome:
    """The result of a call."""

    words: list[str]
    code: int | None
    said: str
    trouble: str = ""


@dataclass
class Kind:
    """A command, the arguments that it needs, and its flags."""

    command: str
    words: list[str]
    flags: list[str]
    positional: bool = False
    values: tuple[str, ...] = field(default=NONSENSE)


class FlagsAttack:
    """The files that the calls work on, and the calls themselves.

    Args:
        folder: An empty folder, for this attack only.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        clouds(folder / "a.npz")
        labeled(folder / "parts.npz")
        for name in ("cup", "hat"):
            (folder / "classes" / name).mkdir(parents=True)
            for i in range(6):
                text = "".join(f"{j} {j * j % 7} {(i + j) % 3}\n" for j in range(30))
                (folder / "classes" / name / f"{i}.xyz").write_text(text)
        self.tiny = folder / "tiny.yaml"
        self.tiny.write_text(yaml.safe_dump(TINY | {"epochs": 1}))
        bare = {key: value for key, value in TINY.items() if key not in ("method", "backbone")}
        (folder / "bare.yaml").write_text(yaml.safe_dump(bare | {"epochs": 1}))
        run = [*self._train(), "--out", str(folder / "run"), "--data.test", str(folder / "a.npz")]
        assert self.call(["train", *run], run_on=True).code == 0
        self.cloud = folder / "cloud.xyz"
        self.cloud.write_text("".join(f"{i} {i * i % 7} {i % 3}\n" for i in range(40)))
        self.kinds = [*self._trainings(), *self._others()]

    def _train(self) -> list[str]:
        return ["--config", str(self.tiny), "--data.train", str(self.folder / "a.npz")]

    def _trainings(self) -> Iterator[Kind]:
        """One kind for each method, task, dataset and kind of backbone."""
        from dapt.data.registry import DATASETS
        from dapt.methods.method import METHODS
        from dapt.tasks import TASKS

        out = ["--out", str(self.folder / "out")]
        plain = [*self._train(), *out]
        names = {"data": "npz", "backbone": "point_mae", "method": "dapt", "task": "classification"}
        yield Kind("train", plain, _flags(names))
        pretraining = {key: names[key] for key in PRETRAINING}
        bare = ["--config", str(self.folder / "bare.yaml"), *plain[2:]]
        small = ["--num_points", "20", "--backbone.num_groups", "6", "--backbone.group_size", "5"]
        small += ["--backbone.dim", "12", "--backbone.depth", "1", "--backbone.num_heads", "2"]
        yield Kind("pretrain", [*bare, *small, "--decoder_depth", "1"], _flags(pretraining))
        inner = {"density": "density:dapt", "reversible": "reversible:linear", "peft": "peft:lora"}
        for method in METHODS:
            flags = _flags(names | {"method": inner.get(method, method)}, "--method.")
            words = [*plain, "--method", inner.get(method, method), *FITTING.get(method, ())]
            yield Kind("train", words, flags)
        for task in TASKS:
            words = [*plain, "--task", task, "--data.train", str(self.folder / "parts.npz")]
            words += FITTING.get(task, ())
            yield Kind("train", words, _flags(names | {"task": task}, "--task."))
        for data in DATASETS:
            flags = _flags(names | {"data": data}, "--data.")
            source = "--data.root" if "--data.root" in flags else "--data.train"
            words = ["--config", str(self.tiny), *out, "--data", data]
            if source in flags:
                words += [source, str(self.folder / ("a.npz" if data == "npz" else "classes"))]
            if data == "folder":
                words += ["--data.num_points", "20"]
            if data == "folder":
                words += ["--data.num_points", "20"]
            yield Kind("train", words, flags)
        for backbone in ("point_m2ae", "point_gpt_s", "uni3d_tiny", "ptv3_tiny", "point_femae"):
            plain_size = {} if "dims" in SMALL[backbone] else {"num_groups": 11, "group_size": 9}
            if plain_size:
                plain_size |= {"dim": 12, "depth": 1, "num_heads": 2}
            words = [*bare, "--backbone", backbone, "--backbone.checkpoint", "none"]
            words += ["--method", "linear"]
            for name, value in (plain_size | SMALL[backbone]).items():
                words += [f"--backbone.{name}", str(list(value) if type(value) is tuple else value)]
            yield Kind("train", words, _flags(names | {"backbone": backbone}, "--backbone."))

    def _others(self) -> Iterator[Kind]:
        run, cloud, out = str(self.folder / "run"), str(self.cloud), str(self.folder / "out")
        flags = ["--split", "--votes", "--batch_size", "--accelerator", "--out"]
        yield Kind("evaluate", [run], flags, True)
        flags = ["--votes", "--out", "--category", "--block", "--stride", "--up"]
        yield Kind("predict", [run, cloud], flags, True)
        flags = ["--run", "--split", "--limit", "--max_points", "--up", "--category", "--block"]
        flags += ["--stride", "--out"]
        yield Kind("view", [cloud, "--run", run, "--out", f"{out}.html"], flags, True)
        words = [run, "--files_only", "--out", f"{out}.html"]
        yield Kind("report", words, ["--out", "--samples", "--latex"], True)
        flags = ["--config", "--backbone", "--method", "--num_classes", "--num_parts"]
        flags += ["--num_points", "--batch_size"]
        yield Kind("info", ["--config", str(self.tiny), "--num_points", "24"], flags)
        words = ["--methods", "dapt", "--seeds", "1", *self._train(), "--out", out]
        yield Kind("compare", words, ["--methods", "--seeds", "--config", "--out", "--epochs"])
        yield Kind("doctor", [], ["--x"], True)

    def cases(self, chance: random.Random) -> Iterator[list[str]]:
        """Yields calls endlessly; each kind comes up equally often."""
        while True:
            for kind in chance.sample(self.kinds, len(self.kinds)):
                if not kind.flags:
                    continue
                flag, value = chance.choice(kind.flags), chance.choice(kind.values)
                words = list(kind.words)
                if kind.positional and chance.random() < 0.2:
                    words = [value, *words[1:]]
                elif flag not in SAFE_FOR_EVER or kind.command != "train":
                    words += chance.choice([[f"{flag}={value}"], [flag, value], [flag]])
                yield [kind.command, *words]

    def call(self, words: list[str], run_on: bool = False) -> Outcome:
        """Runs one call in this process.

        Args:
            words: The command and its arguments.
            run_on: Whether to let a training finish.
        """
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        out, err = io.StringIO(), io.StringIO()
        outcome = Outcome(words, None, "")
        step = Trainer._step

        def first_step(trainer, *arguments):
            step(trainer, *arguments)
            raise Taken

        def too_long(*_):
            raise TimeoutError(f"more than {SECONDS} s")

        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(0 if run_on else SECONDS)
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                contextlib.chdir(self.folder) if hasattr(contextlib, "chdir") else _stay(),
                mock.patch.object(Trainer, "_step", step if run_on else first_step),
                mock.patch("dapt.training.launching.run_child", lambda *_: 1),
            ):
                outcome.code = cli.main(words)
        except Taken:
            outcome.code = 0
        except SystemExit as error:
            outcome.code = error.code or 0
        except BaseException:
            outcome.trouble = traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        outcome.said = err.getvalue()
        outcome.trouble = outcome.trouble or self._judge(outcome)
        return outcome

    def _judge(self, outcome: Outcome) -> str:
        if outcome.code == 0:
            return ""
        lines = outcome.said.strip().splitlines()
        if outcome.code not in (1, 2):
            return f"exit code {outcome.code}"
        if not lines or not lines[-1].startswith("dapt"):
            return "no sentence"
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", lines[-1]):
            return "control characters reach the terminal"
        if len(lines[-1]) > 1500:
            return f"a sentence of {len(lines[-1])} characters"
        return ""


@contextlib.contextmanager
def _stay():
    yield


def _flags(names: dict[str, str], only: str = "--") -> list[str]:
    options = TrainOptions if set(names) == set(ADAPTATION) else PretrainOptions
    parser = build_parser("dapt", names, options)
    words = [word for action in parser._actions for word in action.option_strings]
    others = ("--help", "--print_config", "--resume", "--devices", "--num_workers", "--compile")
    return [
        word
        for word in words
        if word.startswith(only) and len(word) > 2 and not word.startswith(others)
    ]


@attack("flags", small=40)
def flags(budget: Budget) -> Tally:
    """Passes nonsense to every flag of every command."""
    tally, threads = Tally(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            attacked = FlagsAttack(Path(folder))
            cases = attacked.cases(random.Random(budget.seed))
            for (_, _), words in zip(budget.numbers(), cases, strict=False):
                outcome = attacked.call(words)
                if outcome.trouble:
                    tally.fail(f"{words}: {outcome.trouble}")
                else:
                    tally.add("refused" if outcome.code else "taken")
    finally:
        torch.set_num_threads(threads)
    return tally
