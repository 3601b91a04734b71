"""The cgroups of this host."""

import os
from collections.abc import Collection
from pathlib import Path


def cgroups_named(names: Collection[str]) -> list[Path]:
    """Return the cgroups of these names in all hierarchies; others may come and go meanwhile."""
    return [Path(parent, name) for parent, folders, _ in os.walk("/sys/fs/cgroup") for name in folders if name in names]
