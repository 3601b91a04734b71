"""Harms one part of a cluster after the other, sometimes two at a time, and mends what it harmed."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from chaos.client import boot_s
from chaos.cluster import INNER_SERVICES, LEASE_S, PROCESS_AGENTS, Cluster
from chaos.network import Cut

LONG_S: Final = LEASE_S * 2
"""Of a pause or a partition: enough for every lease to run out."""
SHORT_S: Final = 1.5
DURATIONS_S: Final = (SHORT_S, SHORT_S, LONG_S)
_SHARE_REPLACED: Final = 0.4
_BREATH_S: Final = (0.2, 1.5)
_JUMPS_S: Final = (-86_400, -3_600, -7, 0, 7, 3_600, 86_400)

Deed = Callable[[], str]
"""Does harm, and returns the name of what it did."""


class Nemesis:
    """Chooses by a seed; `done` counts its deeds by kind and victim."""

    def __init__(self, running: Cluster, choices: random.Random) -> None:
        self._cluster = running
        self._random = choices
        self.done: Counter[tuple[str, str]] = Counter()
        self.missing = self._missing()
        self.engine_outages: list[tuple[float, float]] = []
        """From when until when the container engine was away."""

    def _missing(self) -> list[str]:
        running = self._cluster
        reasons = {
            "partitions": "" if running.network.directions else running.network.description,
            "loss of single packets": "" if running.network.disturbance else running.network.description,
            "late, repeated and reordered packets": "" if running.network.has_delays else "kernel: no netem here",
            "full disks": running.disks.why_not,
            "jumps of the wall clock": running.clocks.why_not,
            "containers, and restarts of their engine": "" if running.engine else "no engine here, or not asked for",
        }
        return [f"{what}: {why}" for what, why in reasons.items() if why]

    def harm(self) -> None:
        """Do one harmful thing, chosen by chance, and return once everything is ready again."""
        self._random.choice(self._deeds())()
        self._cluster.mend()
        time.sleep(self._random.uniform(*_BREATH_S))

    def _deeds(self) -> list[Callable[[], None]]:
        running = self._cluster
        deeds = [self._kill, self._kill, self._kill_launcher, self._end_agent, self._lose_host]
        deeds += [self._pause, self._pause]
        if running.network.directions:
            deeds += [self._part, self._part]
        if running.network.disturbance:
            deeds.append(self._disturb)
        if running.disks.names:
            deeds.append(self._fill_disk)
        if not running.clocks.why_not:
            deeds.append(self._turn_clock)
        if running.engine is not None:
            deeds.append(self._restart_engine)
        return deeds

    def _note(self, kind: str, victim: str) -> None:
        self.done[kind, victim] += 1

    def _victim(self) -> str:
        return self._random.choice(self._cluster.names)

    # What is over at once

    def _kill(self) -> None:
        self._kill_one(self._victim())

    def _kill_one(self, name: str) -> None:
        self._cluster.kill(name)
        time.sleep(self._random.choice((0.0, 1.0)))
        self._cluster.spawn(name)
        self._note("kill -9", name)

    def _kill_launcher(self) -> None:
        name = self._random.choice(self._cluster.agents)
        if self._end_launcher(name):
            self._note("kill -9 of the launcher or guard", name)

    def _end_launcher(self, name: str) -> bool:
        launcher = self._cluster.launcher_of(name)
        if launcher is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(launcher, signal.SIGKILL)
        return True

    def _lose_host(self) -> None:
        """Kill all that runs on a host at once; it is back at once or later, or another one, with an empty disk, is."""
        name, is_replaced = self._random.choice(PROCESS_AGENTS), self._random.random() < _SHARE_REPLACED
        self._cluster.lose_host(name, with_disk=is_replaced)
        time.sleep(self._random.choice((0.0, 1.0, LONG_S)))
        self._cluster.spawn(name)
        self._note("loss of a host and its disk" if is_replaced else "loss of a host", name)

    def _end_agent(self) -> None:
        """Kill an agent, then its launcher. Containers would live on without a guard."""
        name = self._random.choice(PROCESS_AGENTS)
        self._cluster.kill(name)
        self._end_launcher(name)
        time.sleep(self._random.choice((0.0, 0.0, LONG_S)))
        self._cluster.spawn(name)
        self._note("death of agent and launcher", name)

    def _turn_clock(self) -> None:
        name, seconds = self._victim(), self._random.choice(_JUMPS_S)
        self._cluster.clocks.jump(name, seconds)
        self._note("jump of the wall clock", name)

    def _restart_engine(self) -> None:
        engine = self._cluster.engine
        assert engine is not None
        began = boot_s()
        if self._random.random() < 0.6:
            engine.kill()
            self._note("kill -9 of dockerd", "engine")
        else:
            engine.stop()
            self._note("restart of dockerd", "engine")
        time.sleep(self._random.choice((0.0, 2.0)))
        engine.start()
        self.engine_outages.append((began, boot_s()))

    # What lasts for a while, in which something else may happen

    def _pause(self) -> None:
        name, seconds = self._victim(), self._random.choice((SHORT_S, LONG_S))
        kind = "pause longer than the lease" if seconds > LEASE_S else "pause"
        with self._stopped(name):
            self._while_it_lasts(seconds, apart_from=name)
        self._note(kind, name)

    @contextmanager
    def _stopped(self, name: str) -> Iterator[None]:
        self._cluster.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self._cluster.signal(name, signal.SIGCONT)

    def _part(self) -> None:
        network = self._cluster.network
        name = self._victim()
        peer = self._random.choice([None, *(other for other in INNER_SERVICES if other != name)])
        cut = Cut(name, self._random.choice(network.directions), peer if "in" in network.directions else None)
        seconds = self._random.choice(DURATIONS_S)
        network.cut(cut)
        try:
            self._while_it_lasts(seconds, apart_from="")
        finally:
            network.heal()
        self._note(f"{cut}", name)

    def _disturb(self) -> None:
        network, name = self._cluster.network, self._victim()
        network.disturb(name)
        try:
            self._while_it_lasts(self._random.choice(DURATIONS_S), apart_from="")
        finally:
            network.heal()
        self._note(network.disturbance, name)

    def _fill_disk(self) -> None:
        disks = self._cluster.disks
        name = self._random.choice(["store", *disks.names])
        disks.fill(name)
        try:
            self._while_it_lasts(self._random.choice(DURATIONS_S), apart_from="")
        finally:
            disks.free(name)
        self._note("full disk", name)

    def _while_it_lasts(self, seconds: float, *, apart_from: str) -> None:
        if self._random.random() < 0.4:
            time.sleep(seconds / 2)
            self._kill_one(self._random.choice([name for name in self._cluster.names if name != apart_from]))
            seconds /= 2
        time.sleep(seconds)
