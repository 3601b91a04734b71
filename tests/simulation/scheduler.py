"""The scheduler as an actor: the production Scheduler, its sessions and outboxes between streams of the network."""

import asyncio

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import BatchyardError, NotAllowedError, StaleIncarnationError, UnavailableError
from batchyard.rpc.peers import Peer, Role
from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.dispatch import HEARTBEATS_A_LEASE
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.outbox import AgentOutbox, StoreOutbox
from batchyard.scheduler.session import Session
from simulation.kernel import HostClock, Kernel, Life
from simulation.network import End, Network
from simulation.registry import Registry
from simulation.spectator import Spectator


class SchedulerActor:
    """The actor. It keeps nothing over a crash."""

    def __init__(
        self,
        kernel: Kernel,
        net: Network,
        config: SchedulerConfig,
        clock: HostClock,
        registry: Registry,
        name: str = "scheduler",
    ) -> None:
        self._kernel = kernel
        self._net = net
        self._config = config
        self._clock = clock
        self._registry = registry
        self.name = name
        self.life = Life(name)
        self._starts = self._requests = 0
        self.start()

    def start(self) -> None:
        """Begin a new life."""
        self.life = Life(self.name)
        self._starts += 1
        self.core = Scheduler(self._config, self._clock)
        self.spectator = Spectator(self.core, self._clock)
        self._heartbeat = 0
        self._sessions: list[tuple[End, Session]] = []
        self._is_turning = False
        self._turns_at = float("inf")
        self._pumped: set[End] = set()
        self._net.listen("sessions", self.life, self.name, self._accept_agent)
        self._kernel.note(f"{self.name} starts")
        self._connect()
        self._registry.follow(self.life, self.core.planner, self._resources_changed)

    def _resources_changed(self) -> None:
        self.core.resources_changed(complete=True)
        self._react()

    def crash(self) -> None:
        """Die."""
        self._kernel.note(f"{self.name} dies")
        self.life.alive = False
        self._net.died(self.life)

    def stop(self) -> None:
        """End in order: another one may lead at once."""
        self._kernel.note(f"{self.name} resigns")
        self._store_end.send(wire.DispatchRequest(resign=True).SerializeToString())
        self.crash()

    def drain(self, agent_id: str, *, draining: bool, limit_ms: int | None = None) -> None:
        """Ask for an agent to be drained, or to be drained no more, if this scheduler leads."""
        outbox = self.core._store
        if self.life.alive and outbox is not None and self.core._may_act(self._clock.monotonic_s()):
            self._requests += 1
            outbox.drain(
                wire.AgentDrain(agent_id=agent_id, draining=draining, limit_ms=limit_ms, request=self._requests)
            )
            self._react()

    # The stream with the job store

    def _connect(self) -> None:
        end = self._net.connect(self.life, self.name, "dispatch")
        outbox = StoreOutbox()
        sent_at: dict[int, float] = {}
        lease_s = 0.0

        def beat() -> None:
            if end.open:
                self._heartbeat += 1
                sent_at[self._heartbeat] = self._clock.monotonic_s()
                outbox.beat(self._heartbeat)
                self._react()
                self._kernel.after(lease_s / HEARTBEATS_A_LEASE, self.life, beat)

        def received(data: bytes) -> None:
            nonlocal lease_s
            response = wire.DispatchResponse.FromString(data)
            if response.HasField("welcome"):
                lease_s = response.welcome.lease_ms / 1000
                beat()
            if (sent := sent_at.pop(response.heartbeat, None)) is not None:
                self.core.leadership_renewed(sent + lease_s)
            self.core.store_said(response)
            self._react()

        def closed(error: Exception | None) -> None:
            self._kernel.note(f"{self.name} loses the store: {error}")
            self.core.store_closed(outbox)
            self._kernel.after(self._kernel.rng.uniform(0.02, 2), self.life, self._connect)

        end.received, end.closed = received, closed
        hello = wire.SchedulerHello(scheduler_id=f"{self.name}-{self._starts}", jobs_a_line=self._config.jobs_a_line)
        end.send(wire.DispatchRequest(hello=hello).SerializeToString())
        self._store_end, self._store_outbox = end, outbox
        self.core.store_opened(outbox)

    # Streams with agents

    def _accept_agent(self, end: End, data: bytes) -> None:
        first = session_pb2.ConnectRequest.FromString(data)
        name, incarnation = first.registration.agent_id, first.registration.incarnation
        self._kernel.note(f"{self.name}: session of {name} {incarnation}, from {end.peer.site}")
        try:
            # An agent's certificate has the name of its host.
            session = Session(first.registration, self._clock.monotonic_s(), Peer(Role.AGENT, end.peer.site))
            self.core.session_opened(session)
        except (StaleIncarnationError, NotAllowedError) as error:
            end.close(error)
            return

        def received(data: bytes) -> None:
            self.core.agent_said(session, session_pb2.ConnectRequest.FromString(data))
            self._react()

        def closed(_: Exception | None) -> None:
            session.outbox.close(UnavailableError("the agent has ended its stream"))
            self.core.session_closed(session)
            self._react()

        end.received, end.closed = received, closed
        self.core.agent_said(session, first)
        self._sessions = [(other, its) for other, its in self._sessions if other.open]
        self._sessions.append((end, session))
        self._react()

    # The loop

    def _react(self) -> None:
        """Do what an event calls for, each part of it in a while."""
        if self.core._wake.is_set():
            self._turn_in(self._kernel.rng.random() * 0.005)
        self._pump_soon(self._store_end, self._store_outbox)
        for end, session in self._sessions:
            self._pump_soon(end, session.outbox, session)

    def _turn_in(self, delay_s: float) -> None:
        at = self._kernel.now + delay_s
        if at < self._turns_at:
            self._turns_at = at
            self._kernel.after(delay_s, self.life, lambda: self._turn(at))

    def _turn(self, at: float) -> None:
        if at != self._turns_at:
            return
        self._turns_at = float("inf")
        self.core._wake = asyncio.Event()
        deadline = self.core.turn()
        if deadline is not None:
            self._turn_in(max(1e-4, self._clock.true_delay(deadline)))
        self._react()

    def _pump_soon(self, end: End, outbox: AgentOutbox | StoreOutbox, session: Session | None = None) -> None:
        if end.open and end not in self._pumped and outbox._filled.is_set():
            self._pumped.add(end)
            self._kernel.after(self._kernel.rng.random() * 0.005, self.life, lambda: self._pump(end, outbox, session))

    def _pump(self, end: End, outbox: AgentOutbox | StoreOutbox, session: Session | None) -> None:
        self._pumped.discard(end)
        outbox._filled = asyncio.Event()
        try:
            while end.open and (message := outbox.take_now()) is not None:
                end.send(message.SerializeToString())
        except BatchyardError as error:
            end.close(error)
            if session is not None:
                self.core.session_closed(session)
                self._react()
