"""Methods that stand on another one: `density:dapt` is DAPT with the settings of both."""

import dataclasses
from functools import cache

from dapt.methods.method import Method, method_class


class OnTop(Method):
    """A method whose class is mixed with the class of the one below it.

    It changes what `super()` does, so that whatever it leaves alone is the other method's.
    """

    @classmethod
    @cache
    def over(cls, inner: str) -> type[Method]:
        """The class of both, named `<this method>:<inner>`."""
        below = method_class(inner)

        @dataclasses.dataclass(frozen=True)
        class Both(cls, below):
            __doc__ = cls.__doc__
            name = f"{cls.name}:{inner}"

        Both.__name__ = Both.__qualname__ = f"{cls.__name__}{below.__name__}"
        return Both

    def kin(self) -> None:
        """What is on top of a method changes modules that run side by side as they were."""
        return None

    @classmethod
    def on(cls, method: Method, **settings) -> Method:
        """This method on top of another one, which keeps its settings.

        Args:
            method: The method below.
            settings: of this one.
        """
        fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
        return cls.over(method.name)(**fields, **settings)
