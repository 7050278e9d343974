"""What a model learns: a task has a head, a loss and scores."""

from collections.abc import Callable

from dapt.plugins import entry, installed
from dapt.tasks.classification import Classification, FewShot
from dapt.tasks.segmentation import PartSegmentation, SemanticSegmentation
from dapt.tasks.task import Head, Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, FewShot, PartSegmentation, SemanticSegmentation)
}


def task_class(name: str) -> type[Task]:
    """The class of settings of a task, by its name.

    Args:
        name: What `task.name` calls it.
    """
    return entry("task", name, TASKS)


def names() -> list[str]:
    """Of all tasks."""
    return sorted({*TASKS, *installed("task")})


def register(name: str) -> Callable[[type[Task]], type[Task]]:
    """Enter a task's class of settings in the table.

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
