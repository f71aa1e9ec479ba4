"""Plain values with named fields: the base of frames, events and messages.

Written out with ``__slots__`` and ``__init__``, not as a dataclass or NamedTuple: those run generated code,
which mypyc (docs/decisions/0016-compiled-daemons.md) cannot compile. Part of the thin client: imports
nothing.
"""

from __future__ import annotations


class Record:
    """Two are equal if they have the same class and equal fields; repr() shows the fields."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in field_names(type(self))
        )

    def __hash__(self) -> int:
        return hash(tuple([getattr(self, name) for name in field_names(type(self))]))

    def __repr__(self) -> str:
        fields = [f"{name}={_shown(getattr(self, name))}" for name in field_names(type(self))]
        return f"{type(self).__name__}({', '.join(fields)})"


def field_names(kind: type) -> list[str]:
    """Return the names of the fields of a class with slots, in alphabetical order.

    Compiled classes have no ``__slots__``, but descriptors of the same names.
    """
    return sorted(
        [
            name
            for base in kind.__mro__
            for name, value in vars(base).items()
            if type(value).__name__ in ("member_descriptor", "getset_descriptor") and name[0] != "_"
        ]
    )


def _shown(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 32:
        return f"<{len(value)} bytes>"
    return repr(value)
