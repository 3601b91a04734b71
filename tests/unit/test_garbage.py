"""Calls and commits leave nothing behind that waits for the garbage collector, which is to be rare."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batchyard.rpc.server import default_interceptors
from support import rpc
from support.jobs import Store
from support.rpc import text

TIMES = 100


async def echo(request: Any, context: Any) -> Any:
    return request


@contextmanager
def without_garbage() -> Iterator[None]:
    """Check that what is done leaves fewer objects in cycles than it is done times."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() < TIMES
    finally:
        gc.enable()


async def test_a_call_within_the_process_leaves_nothing() -> None:
    async with rpc.in_process(interceptors=default_interceptors(), unary_unary=echo) as stub:
        await stub.unary_unary(text("first"))
        with without_garbage():
            for _ in range(TIMES):
                await stub.unary_unary(text("again"), timeout=30)


def test_a_commit_leaves_nothing() -> None:
    store = Store()
    store.submit()
    with without_garbage():
        for number in range(TIMES):
            store.submit(f"job-{number}")
