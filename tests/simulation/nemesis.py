"""What goes wrong: faults of every kind at seeded moments, and their end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchyard.domain.jobs import AgentId
from batchyard.scheduler.config import SchedulerConfig
from simulation.agent import AgentActor
from simulation.host import Host
from simulation.intruder import Intruder
from simulation.kernel import Kernel, Life
from simulation.network import Network
from simulation.profiles import Profile
from simulation.registry import Registry
from simulation.scheduler import SchedulerActor
from simulation.store import Store


class Machine:
    """A host and the agent on it, as the service manager sees them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.agent = AgentActor(host)

    @property
    def life(self) -> Life:
        """That of the agent."""
        return self.agent.life


@dataclass
class Scene:
    """Everything that can be hurt."""

    store: Store
    scheduler: SchedulerActor
    rival: SchedulerActor
    """A second scheduler, which is started by mistake, or while the first is cut off; dead most of the time."""
    machines: Sequence[Machine]
    registry: Registry
    config: SchedulerConfig
    intruder: Intruder


class Nemesis:
    """Does harm until told to stop, then repairs it all."""

    def __init__(self, kernel: Kernel, net: Network, scene: Scene, profile: Profile, *, within_s: float) -> None:
        self._kernel = kernel
        self._net = net
        self._scene = scene
        self._kinds = kinds = profile.kinds
        self._aim = profile.aim
        self._every_s = within_s / kernel.rng.choice(profile.strikes)
        self._life, self._operator = Life("nemesis"), Life("operator")
        self._repairs: list[Callable[[], None]] = []
        if kinds:
            self._next()

    def aim(self) -> None:
        """Now and then strike about when something important happens."""
        if self._kinds and self._kernel.chance(self._aim):
            self._kernel.after(self._kernel.rng.random() * 20 * self._net.conditions.delay_s, self._life, self._hit)

    def offered(self, agent_id: AgentId) -> None:
        """Now and then stop an agent about when it gets an offer, until that has become somebody else's."""
        machine = next((one for one in self._scene.machines if one.host.agent_id == agent_id), None)
        if machine is not None and "pause at an offer" in self._kinds and self._kernel.chance(0.2):
            delay_s = self._kernel.rng.random() * (0.03 + 2 * self._net.conditions.delay_s)
            pause_s = self._longer_than_a_lease()
            self._kernel.after(delay_s, self._life, lambda: self._pause_agent(machine, pause_s))

    def _drain(self) -> None:
        agent_id = self._kernel.rng.choice(self._scene.machines).host.agent_id
        limit_ms = self._kernel.rng.choice((None, 0, 10_000))
        for scheduler in (self._scene.scheduler, self._scene.rival):
            scheduler.drain(agent_id, draining=True, limit_ms=limit_ms)
        self._kernel.after(self._a_while(), self._life, lambda: self._end_drains([agent_id]))

    def _end_drains(self, agent_ids: Sequence[str]) -> None:
        for scheduler in (self._scene.scheduler, self._scene.rival):
            for agent_id in agent_ids:
                scheduler.drain(agent_id, draining=False)

    def _end_all_drains(self) -> None:
        """Ask again and again, as an operator does, until no agent is drained."""
        rows = self._scene.store.connection.execute("SELECT agent_id FROM agents WHERE draining ORDER BY agent_id")
        drained = [agent_id for (agent_id,) in rows]
        self._end_drains(drained)
        if drained:
            self._kernel.after(2, self._operator, self._end_all_drains)

    def stop(self) -> None:
        """Do no more harm, and repair what was done."""
        self._kernel.note("the faults are over")
        self._life.alive = False
        self._net.heal()
        for repair in self._repairs:
            repair()
        self._repairs.clear()
        self._scene.registry.restore()
        self._end_all_drains()
        for life in self._lives():
            life.paused_until = min(life.paused_until, self._kernel.now)

    def _lives(self) -> list[Life]:
        scene = self._scene
        lives = [scene.store.life, scene.scheduler.life, scene.rival.life]
        for machine in scene.machines:
            lives.append(machine.life)
            if machine.host.launcher is not None:
                lives.append(machine.host.launcher.life)
        return lives

    def _next(self) -> None:
        self._kernel.after(self._kernel.rng.expovariate(1 / self._every_s), self._life, self._strike)

    def _strike(self) -> None:
        self._hit()
        self._next()

    def _hit(self) -> None:
        kind = self._kernel.rng.choice(self._kinds)
        self._kernel.note(f"nemesis: {kind}")
        getattr(self, "_" + kind.replace(" ", "_"))()

    def _a_while(self) -> float:
        """Return a time that is mostly short, and now and then longer than a lease."""
        return (
            self._kernel.rng.choice((0.1, 0.3, 1.2, 2.5))
            * (0.1 + self._kernel.rng.random())
            * self._scene.config.lease_s
        )

    def _longer_than_a_lease(self) -> float:
        """Return a time after which an agent that was not heard has been given up, and a while more."""
        config = self._scene.config
        return (config.lease_s + config.kill_budget_s) * self._kernel.rng.uniform(1.05, 1.6)

    def _later(self, delay_s: float, repair: Callable[[], None]) -> None:
        """Repair later, or when the faults are over."""
        self._repairs.append(repair)

        def repair_once() -> None:
            if repair in self._repairs:
                self._repairs.remove(repair)
                repair()

        self._kernel.after(delay_s, self._life, repair_once)

    # Crashes

    def _store_crash(self) -> None:
        if self._scene.store.life.alive:
            self._scene.store.crash()
            self._later(self._a_while(), self._scene.store.start)

    def _store_restore(self) -> None:
        """Set the store back to a backup that was made a while ago, whatever runs meanwhile."""
        store = self._scene.store
        copy = store.connection.serialize()

        def begin() -> None:
            if not store.life.alive:
                return
            store.crash()

            def finish() -> None:
                store.restore(copy)
                store.start()

            self._later(self._kernel.rng.choice((0.1, 0.1, 1.0)) * self._a_while(), finish)

        self._kernel.after(self._a_while(), self._life, begin)

    def _scheduler_crash(self) -> None:
        if self._scene.scheduler.life.alive:
            self._scene.scheduler.crash()
            self._later(self._a_while(), self._scene.scheduler.start)

    def _scheduler_stop(self) -> None:
        if self._scene.scheduler.life.alive:
            self._scene.scheduler.stop()
            self._later(self._a_while(), self._scene.scheduler.start)

    def _second_scheduler(self) -> None:
        rival = self._scene.rival
        if not rival.life.alive:
            rival.start()
            self._later(self._a_while(), rival.crash)
            if self._kernel.chance(0.5):
                self._cut(self._kernel.rng.choice(("scheduler", "rival")), "store")

    def _usurper(self) -> None:
        """Start a second scheduler while the store does not reach the first; each has agents that hear it alone."""
        rival, rng = self._scene.rival, self._kernel.rng
        if rival.life.alive:
            return
        hosts = [machine.host.name for machine in self._scene.machines]
        rng.shuffle(hosts)
        count = rng.randint(1, len(hosts) - 1)
        pairs = [("scheduler", "store"), *(("rival", host) for host in hosts[:count])]
        pairs += [("scheduler", host) for host in hosts[count:]]
        rival.start()
        self._block(
            [link for one, other in pairs for link in ((one, other), (other, one))], 1.3 * self._longer_than_a_lease()
        )
        self._later(self._longer_than_a_lease(), rival.crash)

    def _agent_crash(self) -> None:
        machine = self._kernel.rng.choice(self._scene.machines)
        if machine.life.alive and not machine.host.orphans:
            machine.agent.crash()
            self._later(self._a_while(), machine.agent.start)

    def _launcher_death(self) -> None:
        machine = self._kernel.rng.choice(self._scene.machines)
        # Without a namespace somebody must be there to end what a launcher leaves behind: that is assumed.
        if machine.host.namespaced or (machine.life.alive and machine.life.paused_until <= self._kernel.now):
            machine.host.launcher_dies()

    def _death_at_a_claim(self) -> None:
        hosts = [machine.host for machine in self._scene.machines if machine.host.namespaced]
        probability = self._kernel.rng.choice((0.2, 0.7))

        def set_all(probability: float) -> None:
            for host in hosts:
                host.claim_deaths = probability

        set_all(probability)
        self._later(self._a_while(), lambda: set_all(0))

    def _power_failure(self) -> None:
        machine = self._kernel.rng.choice(self._scene.machines)
        if not machine.life.alive:
            return
        loses_disk = self._kernel.chance(0.3)
        self._kernel.note(f"{machine.host.name}: power fails{', and its disk is lost' if loses_disk else ''}")
        machine.life.alive = False
        self._net.died(machine.life, silently=True)
        machine.host.power_fails()

        def boot() -> None:
            if loses_disk:
                machine.host.new_disk()
            machine.host.boot()
            machine.agent.start()

        self._later(self._a_while(), boot)

    def _intruder(self) -> None:
        self._scene.intruder.break_in()
        self._later(self._a_while(), self._scene.intruder.leave)

    # Pauses

    def _pause_at_an_offer(self) -> None:
        """Do nothing: it is done when there is an offer."""

    def _store_pause(self) -> None:
        self._pause(self._scene.store.life, self._a_while())

    def _scheduler_pause(self) -> None:
        self._pause(self._scene.scheduler.life, self._a_while())

    def _agent_pause(self) -> None:
        self._pause_agent(self._kernel.rng.choice(self._scene.machines), self._a_while())

    def _pause_agent(self, machine: Machine, seconds: float) -> None:
        if not machine.host.orphans:
            self._pause(machine.life, seconds)

    def _launcher_pause(self) -> None:
        """Pause a guard, for less than the kill budget: that it is scheduled within it is assumed."""
        launcher = self._kernel.rng.choice(self._scene.machines).host.launcher
        if launcher is not None:
            self._pause(launcher.life, self._kernel.rng.random() * self._scene.config.kill_budget_s / 3)

    def _pause(self, life: Life, seconds: float) -> None:
        if life.paused_until <= self._kernel.now:
            life.paused_until = self._kernel.now + seconds

    # Network and disks

    def _partition(self) -> None:
        rng = self._kernel.rng
        hosts = [machine.host.name for machine in self._scene.machines]
        schedulers = ["scheduler", "rival"]
        self._cut(*rng.choice(((rng.choice(schedulers), "store"), (rng.choice(schedulers), rng.choice(hosts)))))

    def _cut(self, one: str, other: str) -> None:
        rng = self._kernel.rng
        others = ["store", "client", "scheduler", "rival", *(machine.host.name for machine in self._scene.machines)]
        links = rng.choice(([(one, other)], [(other, one)], [(one, other), (other, one)], self._all_links(one, others)))
        self._block(links, self._a_while())

    def _block(self, links: Sequence[tuple[str, str]], seconds: float) -> None:
        blocked = self._net.conditions.blocked
        blocked.update(links)
        self._later(seconds, lambda: blocked.difference_update(links))

    @staticmethod
    def _all_links(site: str, sites: Sequence[str]) -> list[tuple[str, str]]:
        return [pair for other in sites if other != site for pair in ((site, other), (other, site))]

    def _loss(self) -> None:
        conditions = self._net.conditions
        conditions.loss = self._kernel.rng.choice((0.005, 0.05))
        self._later(self._a_while(), lambda: setattr(conditions, "loss", 0.0))

    def _slow_network(self) -> None:
        conditions = self._net.conditions
        conditions.slow, conditions.slow_s = 0.4, self._kernel.rng.choice((2.0, 10.0, 25.0))
        self._later(self._a_while(), lambda: setattr(conditions, "slow", 0.0))

    def _late_answers(self) -> None:
        """Let what the schedulers say to a host come later and later, and then nothing from the host to them."""
        rng, config = self._kernel.rng, self._scene.config
        host = rng.choice(self._scene.machines).host.name
        target_s, step_s = config.kill_budget_s * rng.uniform(1.2, 3), config.heartbeat_interval_s
        steps = int(target_s / step_s) + 1
        sites = ("scheduler", "rival")

        def delay() -> None:
            # Slowly, so that the agent is never without a word for so long that it gives the stream up.
            for end in [end for site in sites for end in self._net.between(host, site)]:
                end.slow_s = min(target_s, end.slow_s + step_s)

        for step in range(steps):
            self._kernel.after(step * step_s, self._life, delay)
        cut_s = self._longer_than_a_lease()
        links = [(host, site) for site in sites]
        self._kernel.after((steps + 3) * step_s, self._life, lambda: self._block(links, cut_s))

    def _abandoned_streams(self) -> None:
        """Let agents and clients open streams that they give up at once, and what they said on them come late."""
        conditions = self._net.conditions
        conditions.abandoned, conditions.slow_s = 0.6, self._kernel.rng.choice((2.0, 10.0, 25.0))
        for machine in self._scene.machines:
            for end in self._net.between(machine.host.name, "scheduler"):
                self._net.break_stream(end)
        self._later(self._a_while(), lambda: setattr(conditions, "abandoned", 0.0))

    def _slow_disk(self) -> None:
        writer = self._scene.store.writer
        before, writer.slow_s = writer.slow_s, self._kernel.rng.choice((1.0, 5.0, 20.0))
        self._later(self._a_while(), lambda: setattr(writer, "slow_s", before))

    def _lying_runtime(self) -> None:
        host = self._kernel.rng.choice(self._scene.machines).host
        host.lies = self._kernel.rng.choice((0.2, 1.0))
        self._later(self._a_while(), lambda: setattr(host, "lies", 0.0))

    def _resource_changes(self) -> None:
        """Change a few queues and environments, one after the other; at the end they are what they were."""
        for _ in range(self._kernel.rng.randint(1, 4)):
            self._kernel.after(self._kernel.rng.random() * 5, self._life, self._scene.registry.change_something)

    def _lease_changes(self) -> None:
        self._scene.registry.change_leases()

    def _store_disk(self) -> None:
        writer = self._scene.store.writer
        writer.failures = self._kernel.rng.choice((0.02, 0.2))
        self._later(self._a_while(), lambda: setattr(writer, "failures", 0.0))

    def _journal_disk(self) -> None:
        host = self._kernel.rng.choice(self._scene.machines).host
        host.disk_failures = self._kernel.rng.choice((0.1, 1.0))
        self._later(self._a_while(), lambda: setattr(host, "disk_failures", 0.0))
