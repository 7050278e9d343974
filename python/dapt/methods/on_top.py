"""Methods on top of another one: `density:dapt` is DAPT with the settings of both."""

import dataclasses
from functools import cache

from dapt.methods.method import Method, method_class


class OnTop(Method):
    """A method whose class is combined with the class of the method underneath.

    It overrides what it changes through `super()`; everything else comes from the other method.
    """

    @classmethod
    @cache
    def over(cls, inner: str) -> type[Method]:
        """Return the combined class, named `<this method>:<inner>`."""
        below = method_class(inner)

        @dataclasses.dataclass(frozen=True)
        class Both(cls, below):
            __doc__ = cls.__doc__
            name = f"{cls.name}:{inner}"

        Both.__name__ = Both.__qualname__ = f"{cls.__name__}{below.__name__}"
        return Both

    def kin(self) -> None:
        """None, because this method changes modules that could run side by side before."""
        return None

    @classmethod
    def on(cls, method: Method, **settings) -> Method:
        """Put this method on top of another one, which keeps its settings.

        Args:
            method: The method underneath.
            settings: The settings of this method.
        """
        fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
        return cls.over(method.name)(**fields, **settings)
