"""Writing down the state of a machine, and continuing with it: by the names of its attributes.

A test checks that no machine forgets an attribute. The values are plain (``wire.values``), and the caller
writes them before the machine takes another step, because they are not copies. Source:
docs/decisions/0030-upgrades.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

#: The form of the saved state of a relay's jobs, with all its machines: raise it when any of them changes.
VERSION = 2

Saved = dict[Any, Any]


class Savable:
    """A machine, or a part of one, whose state can be saved.

    Attributes:
        SAVED: the names of its attributes with plain values that are its state, separated by spaces.
        PARTS: those that are savable themselves, dicts of such, or None.
    """

    __slots__ = ()
    SAVED: ClassVar[str] = ""
    PARTS: ClassVar[str] = ""

    def save(self) -> Saved:
        """Return its state."""
        saved: Saved = {name: getattr(self, name) for name in self.SAVED.split()}
        for name in self.PARTS.split():
            part = getattr(self, name)
            if isinstance(part, dict):
                saved[name] = {key: each.save() for key, each in part.items()}
            else:
                saved[name] = None if part is None else part.save()
        return saved

    def restore(self, saved: Saved) -> None:
        """Continue with a state that ``save`` returned, of an object that was made with the same arguments.

        Raises:
            KeyError, TypeError: the state is that of something else.
        """
        for name in self.SAVED.split():
            setattr(self, name, saved[name])
        for name in self.PARTS.split():
            part = getattr(self, name)
            if isinstance(part, dict):
                for key, each in part.items():
                    each.restore(saved[name][key])
            elif part is not None:
                part.restore(saved[name])
