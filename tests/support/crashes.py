"""Processes that die, or whose disk fails, at a chosen one of their system calls; strace does it."""

import multiprocessing
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import pytest

SYNCS: Final = "fsync,fdatasync"
TRACER_PATIENCE_S: Final = 0.1
CHILD_DEADLINE_S: Final = 60.0
POINTS_MAX: Final = 2000
WORKERS: Final = 2

_PRELOADED: Final = [
    # What takes long to import, and can be imported without pytest's path.
    "batchyard.jobstore.app",
    "batchyard.registry.app",
    "batchyard.agent.app",
    "batchyard.agent.launcher.server",
    "google.protobuf.json_format",
]


def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0
    )


NEEDS_STRACE = pytest.mark.skipif(
    not _can_trace(), reason="kernel: processes cannot be traced" if shutil.which("strace") else "needs strace"
)


@contextmanager
def traced(
    pid: int,
    calls: str,
    fault: str,
    *,
    files: tuple[Path, ...] = (),
    all_threads: bool = True,
    log: Path = Path("/dev/null"),
) -> Iterator[subprocess.Popen[bytes]]:
    """Inject faults into a process, from when the context is entered.

    `files` are those whose calls count; none: all. Its other threads, and the processes that it starts, each count
    their own calls. The calls are written to `log`.
    """
    command = ["strace", *["-f"] * all_threads, "-qq", "-o", str(log)]
    command += [argument for path in files for argument in ("-P", str(path))]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}", "-p", str(pid)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            assert tracer.poll() is None, "strace has ended"
        yield tracer
    finally:
        stop(tracer)


def stop(tracer: subprocess.Popen[bytes]) -> None:
    """End the injection. Its processes go on; what a tracer does whose processes were killed varies."""
    tracer.terminate()
    try:
        tracer.wait(TRACER_PATIENCE_S)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()


def forked(target: Callable[..., None], *arguments: Any) -> tuple[ForkServerProcess, Connection]:
    """Run a function in a child, with the arguments and the other end of the pipe that is returned.

    The child is forked from a server that has imported everything, so that each of many takes a fraction of a second.
    It says ("ready",) before anything else, and then waits for a word.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    assert ours.recv() == ("ready",)
    return process, ours


def was_injected(log: Path) -> bool:
    """Tell whether the log of a traced process holds a fault."""
    return "(INJECTED)" in log.read_text()


def was_killed(process: ForkServerProcess) -> bool:
    """Wait for a child; tell whether it was killed, and not just over."""
    process.join(CHILD_DEADLINE_S)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def sweep(run: Callable[[int], bool], *, step: int = 1) -> int:
    """Run something at every point, or at each `step`th, on both cores; return at how many.

    `run` returns whether the point was beyond the last: then no further one is begun.
    """
    points = count(1, step)
    is_over = threading.Event()
    done: list[int] = []

    def work() -> None:
        while not is_over.is_set():
            point = next(points)
            try:
                assert point < POINTS_MAX, "the scenario never comes to its end"
                if run(point):
                    is_over.set()
            except BaseException:
                is_over.set()
                raise
            done.append(point)

    with ThreadPoolExecutor(WORKERS) as pool:
        for worker in [pool.submit(work) for _ in range(WORKERS)]:
            worker.result()
    return len(done)
