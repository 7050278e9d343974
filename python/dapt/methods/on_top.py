"""Methods that stand on another one: `density:dapt` is DAPT with the settings of both."""

import dataclasses
from abc import ABCMeta
from functools import cache

from dapt.methods.method import Method, method_class


class OnTop(Method):
    """A method whose class is mixed with the class of the one below it.

    It changes what `super()` does, so that whatever it leaves alone is the other method's.
    """

    @classmethod
    @cache
    def over(cls, inner: str) -> type[Method]:
        below = method_class(inner)
        mixed = ABCMeta(f"{cls.__name__}{below.__name__}", (cls, below), {"__doc__": cls.__doc__})
        mixed.name = f"{cls.name}:{inner}"
        return dataclasses.dataclass(frozen=True)(mixed)

    @classmethod
    def on(cls, method: Method, **settings) -> Method:
        """On top of a method with the settings that it has."""
        fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
        return cls.over(method.name)(**fields, **settings)
