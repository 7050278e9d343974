"""A training step as one CUDA graph: one launch instead of one per kernel.

A graph repeats what was launched when it was captured, on the same memory and with the same
Python values. Batches are therefore copied to the memory of the first one, and what changes from
step to step (the learning rate, torch's seed) is read from the device. A step may neither look at
values nor draw numbers on the host; a few eager steps before the capture check this. Where a step
cannot be a graph, `cuda_graph: on` is an error, and `auto` goes on with ordinary steps.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import zip_longest

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dapt.errors import DaptError, UsageError
from dapt.runs.options import TrainOptions

Batch = Mapping[str, Tensor]
log = logging.getLogger(__name__)

WARM_UP = 3  # steps: the first creates the optimizer's state, the others must be alike
OFF = "leave cuda_graph out"
# ops whose output size depends on values
SIZED_BY_VALUES = ("dapt::unique_cells",)
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
MASKS = (torch.bool, torch.uint8)
COPIES = ("aten::_to_copy", "aten::copy_")


def takes_graph(
    options: TrainOptions, device: torch.device, processes: int, model: torch.nn.Module
) -> bool:
    """Whether the steps of a run become one graph, which `cuda_graph: on` requires.

    Args:
        options: The options of the run, `cuda_graph` among them.
        device: The device of the training.
        processes: The number of processes that train together.
        model: The model that trains.
    """
    if options.cuda_graph == "off":
        return False
    try:
        check_graph(options, device, processes)
        check_keeps_activations(model)
    except UsageError:
        if options.cuda_graph == "on":
            raise
        return False
    if options.cuda_graph == "auto":
        log.info("cuda_graph on: one launch per step, if the first %d steps allow it", WARM_UP)
    return True


def check_graph(options: TrainOptions, device: torch.device, processes: int) -> None:
    """Check that the steps of a run with these options can be one graph.

    Args:
        options: The options of the run.
        device: The device of the training.
        processes: The number of processes that train together.
    """
    if device.type != "cuda":
        raise UsageError(f"cuda_graph needs a GPU, and this run is on the {device.type}: {OFF}")
    if processes > 1:
        raise UsageError(f"cuda_graph takes one process, and this run has {processes}: {OFF}")
    if options.accumulate > 1:
        raise UsageError(
            f"cuda_graph updates after each batch, and accumulate is {options.accumulate}: {OFF}"
        )
    if options.schedule == "one_cycle":
        raise UsageError(f"cuda_graph fixes the momentum, but one_cycle changes it: {OFF}")
    if options.compile:
        raise UsageError("cuda_graph and compile exclude each other: leave one of them out")


def check_keeps_activations(model: torch.nn.Module) -> None:
    """Check that no block runs again in the backward pass, which torch allows only outside graphs.

    Args:
        model: The model that trains.
    """
    if any(getattr(module, "keeps_only_input", False) for module in model.modules()):
        raise UsageError(
            "cuda_graph needs the activations for the backward, and the method has memory=low: "
            f"{OFF}, or take memory=default"
        )


class StepGraph:
    """A step that runs eagerly for `WARM_UP` batches, and as one graph from then on.

    Args:
        step: Reads a batch and updates the weights, whatever gradients they have; returns nothing.
        device: The device of the training.
        required: Whether it is an error if the step cannot be one graph. Otherwise all steps run
            eagerly then, with the same result.
    """

    def __init__(
        self, step: Callable[[Batch], None], device: torch.device, *, required: bool = True
    ):
        self.step, self.device, self.required = step, device, required
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.batch: dict[str, Tensor] = {}  # the memory that every batch is copied to
        self.seen: list[list[str]] = []  # what each warm-up step launched
        self.replay: Callable[[], None] | None = None
        self.gave_up = False

    def __call__(self, batch: Batch) -> None:
        """Run one step.

        Args:
            batch: The batch.
        """
        if not self.gave_up:
            self._place(batch)
        if not self.gave_up and self.replay is None and len(self.seen) == WARM_UP:
            self._capture()
        if self.gave_up:
            self.step(batch)
        elif self.replay is not None:
            self.replay()
        else:
            self._watch()

    def _place(self, batch: Batch) -> None:
        if not self.batch:
            self.batch = {name: values.clone() for name, values in batch.items()}
        for name, values in self.batch.items():
            if values.shape != batch[name].shape:
                self._give_up(
                    f"a CUDA graph needs batches of one shape, {name} is "
                    f"{list(batch[name].shape)} after {list(values.shape)}"
                )
                return
            values.copy_(batch[name])

    def _watch(self) -> None:
        with self._beside(), Watch() as watch:
            self.step(self.batch)
        self.seen.append(watch.calls)
        if watch.waits:
            self._give_up(f"{watch.waits} waits for values, which a CUDA graph cannot do")

    def _capture(self) -> None:
        obstacle = _difference(*self.seen[-2:])
        if obstacle is None:
            try:
                with torch.random.fork_rng(devices=[]):
                    self.replay = capture(lambda: self.step(self.batch))
            except RuntimeError as error:
                if self.required and isinstance(error, torch.OutOfMemoryError):
                    raise
                cause = str(error.__context__ or error)  # the end of a broken capture also fails
                reason = cause.partition("\n")[0]
                obstacle = f"the step cannot be one CUDA graph ({reason})"
        if obstacle:
            self._give_up(obstacle)

    def _give_up(self, obstacle: str) -> None:
        if self.required:
            raise DaptError(f"{obstacle}: {OFF}")
        log.info("cuda_graph off: %s; the training goes on without", obstacle)
        self.gave_up, self.replay = True, None
        self.batch.clear()
        self.seen.clear()
        torch.cuda.empty_cache()  # of the separate stream and of the graph

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """A separate stream, on which torch requires the steps before a capture to run."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            # the optimizer is capturable but not yet captured
            warnings.filterwarnings("ignore", message="This instance was constructed with capturab")
            yield
        torch.cuda.current_stream().wait_stream(self.stream)


def _difference(one: list[str], other: list[str]) -> str | None:
    if one == other:
        return None
    pairs = zip_longest(one, other, fillvalue="the end")
    before, after = next((a, b) for a, b in pairs if a != b)
    return (
        f"the steps of this method differ: one has {before} where the next has {after}, so they "
        "cannot be one CUDA graph"
    )


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """Capture a step that has run before, and return a function that replays it.

    Args:
        step: The step to capture. If this fails, torch can go on as before.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    stream, device = torch.cuda.current_stream(), torch.cuda.current_device()
    generator = torch.cuda.default_generators[device]
    random = generator.clone_state()
    try:
        with torch.cuda.graph(graph, pool):
            step()
    except RuntimeError:
        # If the capture breaks, torch.cuda.graph stays in its stream and its memory pool, and up to
        # torch 2.12 the generator waits for the end of the capture.
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(random)
        with suppress(RuntimeError):  # where the capture did end, reset() releases the pool
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
        graph.reset()
        _broken.append(graph)
        raise
    return graph.replay


_broken: list[torch.cuda.CUDAGraph] = []  # torch's allocator of pinned memory points to them


class Watch(TorchDispatchMode):
    """Records what a step launches, and the first op that waits for values of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.waits: str | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.name().split(".")[0]
        if _looks_at_values(function, name, args) or _leaves_device(name, args, result):
            self.waits = self.waits or name
        leaves = tree_leaves((args, kwargs))
        self.calls.append(f"{name}({', '.join(map(_described, leaves))})")
        return result


def _looks_at_values(function, name: str, args: tuple) -> bool:
    if name in INDEXED:  # integer indices are fine; a mask needs its number of true values
        return any(index is not None and index.dtype in MASKS for index in args[1])
    by_values = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return name in SIZED_BY_VALUES or not by_values.isdisjoint(function.tags)


def _leaves_device(name: str, args: tuple, result: object) -> bool:
    if name not in COPIES:
        return False
    source = args[1] if name == "aten::copy_" else args[0]
    return source.device.type != result.device.type


def _described(leaf: object) -> str:
    if not isinstance(leaf, Tensor):
        return str(leaf)
    return f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"
