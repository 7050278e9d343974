"""Tasks: what a model learns. A task consists of a head, a loss and scores."""

from collections.abc import Callable

from dapt.plugins import entry, installed
from dapt.tasks.classification import Classification, FewShot
from dapt.tasks.segmentation import PartSegmentation, SemanticSegmentation
from dapt.tasks.task import Head, Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, FewShot, PartSegmentation, SemanticSegmentation)
}


def task_class(name: str) -> type[Task]:
    """Look up a task's settings class by its name.

    Args:
        name: What `task.name` calls it.
    """
    return entry("task", name, TASKS)


def names() -> list[str]:
    """The names of all tasks."""
    return sorted({*TASKS, *installed("task")})


def register(name: str) -> Callable[[type[Task]], type[Task]]:
    """Register a task's settings class.

    Args:
        name: What `task.name` calls it.
    """

    def enter(cls: type[Task]) -> type[Task]:
        if name in TASKS and cls.__module__ != "__main__":
            raise NameError(f"task '{name}' is registered twice")
        cls.name = name
        TASKS[name] = cls
        return cls

    return enter


__all__ = [
    "TASKS",
    "Classification",
    "FewShot",
    "Head",
    "PartSegmentation",
    "SemanticSegmentation",
    "Task",
    "names",
    "register",
    "task_class",
]
