"""How one kind of file names the weights of a network."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dapt.models.weight_files import State


@dataclass(frozen=True)
class Layout:
    """Maps the entries of a network to the keys of one kind of file.

    Args:
        title: What such a file is called.
        network: The name in `create_backbone` of the network that such files are made for.
        marks: Regular expressions by which the layout is recognized; each must match the beginning
            of some key.
        renames: Regular expressions that turn a network entry into the file's key.
        otherwise: Pairs of a pattern of a file's key and the keys that are concatenated in its
            place if the file lacks it; None stands for zeros.
        reasons: Pairs of a pattern of a file's key and the reason why it is left over.
        others: The same for the parts of a whole model outside its backbone: head and adapters.
        fresh: Maps network entries that such files never contain to the reason.
        like: A further check of the tensors of a file whose keys match.
        closed: Whether every key must have a place in the network or a reason; otherwise only keys
            that belong to a part of the network must.
        license: The license of the published weights, if it is restrictive.
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
        """The file's key for an entry.

        Args:
            entry: A name in our network's state.
        """
        for pattern, replacement in self.renames:
            entry = re.sub(pattern, replacement, entry)
        return entry

    def keys(self, entry: str, state: State) -> tuple[str | None, ...]:
        """The keys whose tensors make up an entry in this file; None stands for zeros.

        Args:
            entry: A name in our network's state.
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
        """Why a key of the file is left over; None if the layout does not know.

        Args:
            key: The key of the file.
        """
        known = (*self.reasons, *self.others)
        return next((why for pattern, why in known if re.match(pattern, key)), None)
