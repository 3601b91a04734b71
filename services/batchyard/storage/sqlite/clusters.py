"""Compute environments, and the ECS clusters that they are said to have: those stay when an environment goes."""

import sqlite3
from collections.abc import Iterable

from batchyard.storage.jobs import EnvironmentCopy
from batchyard.storage.sqlite.rows import each_in


def keep(db: sqlite3.Connection, environment: EnvironmentCopy) -> None:
    """Write an environment, and its cluster if that is known."""
    db.execute(
        "INSERT OR REPLACE INTO environments"
        " (namespace, name, usable, max_vcpus_milli, revision, created, cluster_arn) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(*environment.key, environment.usable, environment.max_vcpus_milli, environment.revision),
            *(environment.created, environment.cluster_arn),
        ),
    )
    if environment.cluster_arn:
        values = (environment.created, environment.cluster_arn)
        db.execute("INSERT OR REPLACE INTO clusters (created, arn) VALUES (?, ?)", values)


def arns(db: sqlite3.Connection, created: Iterable[int]) -> dict[int, str]:
    """Return the ARNs of clusters by the number under which they are kept."""
    return dict(each_in(db, "SELECT created, arn FROM clusters WHERE created IN (%s)", created))
