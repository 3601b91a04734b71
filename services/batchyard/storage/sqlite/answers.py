"""Answers to requests that may be repeated."""

import sqlite3
from collections.abc import Sequence

from batchyard.storage.jobs import ANSWERS_KEPT_MS, Answer, RequestKey


def find(db: sqlite3.Connection, key: RequestKey) -> bytes | None:
    """Return what a request was answered."""
    row = db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def keep(db: sqlite3.Connection, answers: Sequence[Answer]) -> None:
    """Add answers, and let go twice as many that are too old: in the long run more go than come."""
    if not answers:
        return
    # Numbered as they came, so that the oldest are found without an index on their time.
    db.execute(
        "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?) AND at < ?",
        (2 * len(answers), answers[0].at - ANSWERS_KEPT_MS),
    )
    db.executemany(
        "INSERT INTO answers (key, answer, at) VALUES (?, ?, ?)",
        [(answer.key, answer.answer, answer.at) for answer in answers],
    )
