"""Models that carry adapters: attached, switched, saved, loaded, merged and taken off again."""

from dapt.adapters.attach import attach, detach, load_adapter, merge
from dapt.adapters.model import AdaptedModel
from dapt.adapters.release import load_release

__all__ = ["AdaptedModel", "attach", "detach", "load_adapter", "load_release", "merge"]
