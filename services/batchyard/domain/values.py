"""Values that nobody changes, made by the thousand.

`value_class` is `dataclass` to whoever checks types, and so a value that is frozen is. While the program runs nothing
keeps it so: a dataclass that does takes three to five times as long to make, and of some a job needs a dozen.
"""

from typing import TYPE_CHECKING

__all__ = ["value_class"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
else:
    from dataclasses import dataclass

    def value_class(*, frozen: bool, slots: bool):
        """Return what makes a dataclass of a class."""
        return dataclass(slots=slots, unsafe_hash=frozen)
