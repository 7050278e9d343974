"""How one kind of file keeps the weights of a network."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dapt.models.weight_files import State


@dataclass(frozen=True)
class Layout:
    """Where one kind of file keeps the entries of a network.

    Args:
        title: What such a file is called.
        network: Name in `create_backbone` of the network that such files are made for.
        marks: Regular expressions by which the layout is recognized: each matches the beginning of
            a key.
        renames: Regular expressions that turn the network's entry into the file's key.
        otherwise: a pattern of a file's key, and the keys that, one after another, make it up where
            the file lacks it; None stands for zeros.
        reasons: a pattern of a file's key, and why it is left over.
        others: Likewise, of parts of a whole model beside its backbone: the head and the adapters.
        fresh: a network's entry that such files never hold, and why.
        like: Whether the tensors of a file with these marks are of this kind, too.
        closed: Whether every key must have a place in the network or a reason; otherwise only those
            that belong to a part of it.
        license: The license of the published weights, if it has restrictions.
    """

    title: str
    network: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    otherwise: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    reasons: tuple[tuple[str, str], ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    fresh: Mapping[str, str] = field(default_factory=dict)
    like: Callable[[State], bool] = lambda state: True
    closed: bool = False
    license: str | None = None

    def matches(self, state: State) -> bool:
        """Whether a file with these tensors has this layout.

        Args:
            state: The tensors of a file by their keys.
        """
        marked = all(any(re.match(mark, key) for key in state) for mark in self.marks)
        return marked and self.like(state)

    def key(self, entry: str) -> str:
        """The file's key of an entry, as a whole.

        Args:
            entry: a name in our network's state.
        """
        for pattern, replacement in self.renames:
            entry = re.sub(pattern, replacement, entry)
        return entry

    def keys(self, entry: str, state: State) -> tuple[str | None, ...]:
        """The keys whose tensors make up an entry in this file; None stands for zeros.

        Args:
            entry: a name in our network's state.
            state: The tensors of a file by their keys.
        """
        whole = self.key(entry)
        ways = [(whole,)]
        for pattern, parts in self.otherwise:
            if re.search(pattern, whole):
                ways.append(tuple(p if p is None else re.sub(pattern, p, whole) for p in parts))
        for way in ways:
            if all(key is None or key in state for key in way):
                return way
        return max(ways, key=lambda way: sum(key in state for key in way))

    def reason(self, key: str) -> str | None:
        """Why a key of the file is left over, where the layout knows.

        Args:
            key: The key of the file.
        """
        known = (*self.reasons, *self.others)
        return next((why for pattern, why in known if re.match(pattern, key)), None)
