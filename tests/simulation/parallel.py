"""Worlds on all cores: each seed is a world of its own, so any number of processes may share them out."""

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def pool() -> ProcessPoolExecutor:
    """Return one process a core, in which nothing is logged: there, faults are no news."""
    return ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn"), initializer=logging.disable, initargs=(logging.CRITICAL,)
    )
