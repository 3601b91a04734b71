"""One run: harm under load for some minutes, then healing, and the check of everything that was written anywhere."""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos import history, sightings, store
from chaos.client import UNFINISHED_MAX, Clients, Notes
from chaos.cluster import CONTAINERS, LEASE_S, Cluster, cluster
from chaos.disks import mounts_below
from chaos.nemesis import Nemesis

CONTAINERS_FROM_MINUTES: Final = 2.0
"""Starting an engine, and containers, takes too long for shorter runs."""
HEALING_BOUND_S: Final = 180.0 + 2.0 * UNFINISHED_MAX
"""How long after the last fault everything must have ended, on a slow machine; jobs may wait for one another."""
LOGS_BOUND_S: Final = 60.0
LEFTOVERS_BOUND_S: Final = 60.0
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    report: str
    """One page of Markdown."""
    path: Path
    """Where the report was written."""
    violations: list[str]
    harmed: int


def run(minutes: float, seed: int | None = None, *, parent: Path | None = None) -> Outcome:
    """Run once; the folder, with what the processes said, stays if something was violated."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="batchyard-chaos-", dir=parent))
    found: list[str] = []
    with cluster(folder / "cluster", minutes=minutes, containers=minutes >= CONTAINERS_FROM_MINUTES) as running:
        path = folder / "history"
        has_containers = running.engine is not None
        clients = Clients(running.http_url, path, seed, containers=has_containers)
        clients.prepare()
        nemesis = Nemesis(running, random.Random(seed + 1_000_000))
        began = time.monotonic()
        with clients.running():
            while time.monotonic() - began < minutes * 60:
                nemesis.harm()
        healed = time.monotonic()
        found += [f"I10: {job_id} has not ended" for job_id in clients.wait_for_all(HEALING_BOUND_S)]
        healing_s = time.monotonic() - healed
        notes = clients.notes
        lines = history.read(path)
        ends = sightings.first_ends(notes.sightings)
        silenced = _silenced(notes, ends, nemesis.engine_outages)
        if has_containers:
            logs = clients.logs_of(CONTAINERS, silenced, LOGS_BOUND_S)
            found += history.damaged_logs(logs)
            printed = [line for log in logs.values() for line in history.parsed(log)]
            lines += sorted(printed, key=lambda line: line.at)
            found += [f"I10: container {one} is left" for one in _left(running.containers_left)]
        running.close()
        found += running.ended_by_themselves
        found += [f"I10: process is left: {one}" for one in _left(running.processes_left)]
        found += [f"I10: cgroup is left: {one}" for one in _left(running.cgroups_left)]
        found += store.violations(running.store_folder, {one: job["status"] for one, job in notes.ended.items()})
        found += history.violations(lines, notes.dependencies, ends, silenced)
        found += sightings.violations(notes.sightings, notes.stopped)
        if found:
            # What lies on the small disks goes with them.
            shutil.copytree(running.folder, folder / "kept", ignore=shutil.ignore_patterns("socket"))
        jobs, retries = store.count(running.store_folder)
    found += [f"I10: mount is left: {one}" for one in mounts_below(folder)]
    found += [f"I10: network is left: {one}" for one in running.network.leftovers()]
    text = "\n".join(_report(minutes, seed, running, nemesis, notes, lines, (jobs, retries), healing_s, found))
    (folder / "report.md").write_text(text + "\n")
    return Outcome(text, folder / "report.md", found, nemesis.done.total())


def _silenced(notes: Notes, ends: Mapping[str, history.Ended], outages: Sequence[tuple[float, float]]) -> set[str]:
    """Return the container jobs that lived while the engine was away: what they print then is lost with some."""
    return {
        job_id
        for job_id, end in ends.items()
        if notes.acknowledged[job_id] == CONTAINERS
        and any(notes.acknowledged_at[job_id] <= until and since <= end.seen_at for since, until in outages)
    }


def _left(look: Callable[[], list[str]]) -> list[str]:
    """Return what is still there after a while."""
    deadline = time.monotonic() + LEFTOVERS_BOUND_S
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def _report(
    minutes: float,
    seed: int,
    running: Cluster,
    nemesis: Nemesis,
    notes: Notes,
    lines: list[history.Line],
    stored: tuple[int, int],
    healing_s: float,
    found: list[str],
) -> Iterable[str]:
    jobs, retries = stored
    kinds: dict[str, Counter[str]] = {}
    for (kind, victim), times in sorted(nemesis.done.items()):
        kinds.setdefault(kind, Counter())[victim] += times
    starts = sum(line.word == "start" for line in lines)
    states = Counter[str](job["status"] for job in notes.ended.values())
    stops = Counter(verb for verb, _ in notes.stopped.values())
    yield f"# Chaos: {minutes:g} minutes, seed {seed}: {len(found) or 'no'} violations"
    yield ""
    yield f"- Hosts: {running.network.description}; {len(running.agents)} agents; lease {LEASE_S:g} s"
    for missing in nemesis.missing:
        yield f"- Not done: {missing}"
    yield f"- Jobs: {len(notes.acknowledged)} acknowledged, {jobs} in the store; ended: {_listed(states)}"
    yield f"- Runs: {starts} started, {retries} attempts after a first one; stops acknowledged: {_listed(stops)}"
    yield f"- Calls: {_listed(notes.calls)}; failed for good: {notes.refusals.total()}"
    yield f"- Longest time without an answer: {notes.longest_outage_s:.1f} s; healing took {healing_s:.1f} s"
    yield f"- Started once more by the service manager: {running.restarts}"
    yield ""
    yield "| fault | times | victims |"
    yield "| --- | --- | --- |"
    for kind, victims in kinds.items():
        yield f"| {kind} | {victims.total()} | {_listed(victims)} |"
    yield ""
    if notes.refusals:
        yield "| failed for good | times |"
        yield "| --- | --- |"
        for kind, times in notes.refusals.most_common(8):
            yield f"| {kind} | {times} |"
        yield ""
    yield f"Violations: {len(found) or 'none'}"
    for text in found[:50]:
        yield f"- {text}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counts.items())) or "none"
