"""What a model learns: a task has a head, a loss and scores."""

from dapt.errors import look_up
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
    return look_up("task", name, TASKS)


__all__ = [
    "TASKS",
    "Classification",
    "FewShot",
    "Head",
    "PartSegmentation",
    "SemanticSegmentation",
    "Task",
    "task_class",
]
