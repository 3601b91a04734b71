"""An agent as an actor: the production reconciler, conversions, identity and lease counting between two streams.

What is here in place of production code is the async shell alone: when it connects, waits and gives up.
"""

import json

from batchyard.agent.convert import demands_of, fence_message, report_of
from batchyard.agent.host import Identity, IdentityKeeper, OutdatedSchedulerError
from batchyard.agent.launcher import wire
from batchyard.agent.lease import Heartbeats
from batchyard.agent.reconcile import Reconciler
from batchyard.agent.runtimes.process import start_order
from batchyard.agent.session import REPORTS_PER_MESSAGE_MAX, SILENCE_HEARTBEATS, WELCOME_PATIENCE_S
from batchyard.agent.state import Orders, record_from_launcher
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.domain.errors import StaleIncarnationError
from simulation.host import Host
from simulation.kernel import Life
from simulation.network import End

LOG = "/logs/job.log"


class AgentActor:
    """One agent of a host, with one life after the other. It keeps its identity on the disk alone."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._kernel = host.kernel
        self.life = Life(f"{host.name} agent")
        self.start()

    def start(self) -> None:
        """Begin a new life."""
        self.life = Life(f"{self.host.name} agent")
        path = self.host.folder / "agent.json"
        if not path.exists():
            path.write_text(json.dumps({"agent_id": self.host.agent_id}))
        self.identity = IdentityKeeper(self.host.folder)
        self._kernel.note(f"{self.host.name}: agent starts")
        self._open_runtime()

    def crash(self) -> None:
        """Die."""
        self._kernel.note(f"{self.host.name}: agent dies")
        self.life.alive = False
        self.host.net.died(self.life)

    # The runtime

    def _open_runtime(self) -> None:
        self.host.start_launcher()
        self.reconciler = Reconciler()
        self._heartbeats = Heartbeats()
        self._session: _Session | None = None
        self._inbox = wire.LineBuffer()
        self._claimed_before: list[tuple[int, int]] = []
        self._instance = ""
        self._is_ending_all = False
        self._launcher = launcher = self.host.net.connect(
            self.life, self.host.name, f"{self.host.name} launcher", local=True
        )
        launcher.received = lambda data: self._launcher_said(launcher, data)
        launcher.closed = lambda _: self._runtime_lost(launcher)
        launcher.send(wire.encode({"capacity": self.host.capacity}))

    def _runtime_lost(self, launcher: End) -> None:
        if launcher is not self._launcher:
            return
        self._kernel.note(f"{self.host.name}: agent loses its launcher")
        if self._session is not None:
            self._session.end.close()
            self._session = None
        self._kernel.after(0.1, self.life, self._open_runtime)

    def _launcher_said(self, launcher: End, data: bytes) -> None:
        if launcher is not self._launcher:
            return
        for message in self._inbox.feed(data):
            is_first = "instance" in message
            if is_first:
                self._instance = message["instance"]
                self._claimed_before = [wire.decode_fence(pair) for pair in message["lost"]]
            self.carry_out(self.reconciler.observe([record_from_launcher(run) for run in message["runs"]]))
            if is_first:
                if self.identity.identity.instance != self._instance:
                    self.begin_incarnation()
                self._connect()
        if self._is_ending_all and self.reconciler.is_quiet():
            self._is_ending_all = False
            self.begin_incarnation()
            self._connect()
        if self._session is not None:
            self._session.speak_soon()

    def begin_incarnation(self) -> None:
        """Begin the next incarnation."""
        self.identity.begin_incarnation("process", self._instance)
        self._kernel.note(f"{self.host.name}: incarnation {self.identity.identity.incarnation}")

    def follow(self, welcome: session_pb2.Welcome) -> None:
        """Follow the scheduler that welcomes; raise OutdatedSchedulerError."""
        self.identity.follow((welcome.store_epoch, welcome.leader_epoch))
        self.reconciler.follow(welcome.store_epoch)

    def carry_out(self, orders: Orders) -> None:
        """Pass orders on to the launcher."""
        message: dict[str, object] = {}
        if orders.offers:
            message["offers"] = [
                start_order(offer, agent_id=self.host.agent_id, log=LOG, environ={}) for offer in orders.offers
            ]
        if orders.revocations:
            message["revoke"] = orders.revocations
        if orders.kills:
            message["kill"] = orders.kills
        if orders.forgotten:
            message["forget"] = orders.forgotten
        if message:
            self._launcher.send(wire.encode(message))

    def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Tell the launcher until when it may run jobs."""
        self._launcher.send(wire.encode({"lease": [deadline, start_margin_s]}))

    # The session

    def _connect(self) -> None:
        if self._session is None and not self._is_ending_all and self._launcher.open and self._instance:
            self._session = _Session(self, self._heartbeats)

    def session_ended(self, session: "_Session", error: Exception | None) -> None:
        """Go on after a session that has broken, or that was refused."""
        if session is not self._session:
            return
        self._session = None
        if isinstance(error, StaleIncarnationError):
            self._kernel.note(f"{self.host.name}: agent is given up, and ends everything")
            self._is_ending_all = True
            self.carry_out(self.reconciler.end_all(grace_s=0))
            if self.reconciler.is_quiet():
                self._is_ending_all = False
                self.begin_incarnation()
        self._kernel.after(self._kernel.rng.uniform(0.02, 2), self.life, self._connect)

    def registration(self) -> session_pb2.Registration:
        """Return how the agent presents itself."""
        identity: Identity = self.identity.identity
        vcpus_milli, memory_mib, gpus = self.host.capacity
        return session_pb2.Registration(
            agent_id=identity.agent_id,
            incarnation=identity.incarnation,
            capacity=session_pb2.Capacity(vcpus_milli=vcpus_milli, memory_mib=memory_mib, gpus=gpus),
            compute_environments=self.host.environments,
            claimed_before=[fence_message(fence) for fence in self._claimed_before],
        )


class _Session:
    """One stream with the scheduler."""

    def __init__(self, agent: AgentActor, heartbeats: Heartbeats) -> None:
        self._agent = agent
        self._kernel = agent.host.kernel
        self._clock = agent.host.clock
        self._heartbeats = heartbeats
        self._interval_s = 0.0
        self._lease_s = 0.0
        self._next_heartbeat = 0.0
        self._heard_at = self._kernel.now
        self._speaks_at = float("inf")
        self.end = end = agent.host.net.connect(agent.life, agent.host.name, "sessions")
        end.received, end.closed = self._received, self._ended
        heartbeats.begin_session()
        now = self._clock.monotonic_s()
        first = session_pb2.ConnectRequest(registration=agent.registration(), heartbeat=heartbeats.next(now))
        first.registration.runs.extend(report_of(run, now) for run in agent.reconciler.everything())
        end.send(first.SerializeToString())
        self._watch_silence(WELCOME_PATIENCE_S)

    def _ended(self, error: Exception | None) -> None:
        self._agent.session_ended(self, error)

    def _watch_silence(self, patience_s: float) -> None:
        heard_at = self._heard_at

        def look() -> None:
            if self.end.open and self._heard_at == heard_at:
                self._kernel.note(f"{self._agent.host.name}: agent hears nothing")
                self.end.close()
                self._ended(None)

        self._kernel.after(patience_s, self._agent.life, look)

    def _received(self, data: bytes) -> None:
        response = session_pb2.ConnectResponse.FromString(data)
        if response.HasField("welcome"):
            try:
                self._agent.follow(response.welcome)
            except OutdatedSchedulerError as error:
                self._kernel.note(f"{self._agent.host.name}: agent refuses a scheduler")
                self.end.close()
                self._ended(error)
                return
            self._interval_s = response.welcome.heartbeat_interval_ms / 1000
            self._lease_s = response.welcome.lease_ms / 1000
            self._next_heartbeat = self._kernel.now
        if not self._interval_s:
            return
        self._heard_at = self._kernel.now
        self._watch_silence(SILENCE_HEARTBEATS * self._interval_s)
        if response.heartbeat:
            term = self._heartbeats.answered(response.heartbeat, self._lease_s)
            if term is not None:
                self._agent.renew_lease(*term)
        self._agent.carry_out(self._agent.reconciler.demand(demands_of(response)))
        self.speak_soon()

    def speak_soon(self) -> None:
        """Send what there is to send, in a moment or when the next heartbeat is due."""
        if not self._interval_s:
            return
        has_news = self._agent.reconciler.has_reports()
        delay_s = self._kernel.rng.random() * 0.004 if has_news else max(0.0, self._next_heartbeat - self._kernel.now)
        at = self._kernel.now + delay_s
        if at < self._speaks_at:
            self._speaks_at = at
            self._kernel.after(delay_s, self._agent.life, lambda: self._speak(at))

    def _speak(self, at: float) -> None:
        if at != self._speaks_at or not self.end.open:
            return
        self._speaks_at = float("inf")
        request = session_pb2.ConnectRequest()
        reconciler, now = self._agent.reconciler, self._clock.monotonic_s()
        if self._kernel.now >= self._next_heartbeat:
            self._next_heartbeat = self._kernel.now + self._interval_s
            reconciler.next_round()
            request.heartbeat = self._heartbeats.next(now)
        reports = reconciler.take_reports(REPORTS_PER_MESSAGE_MAX)
        request.reports.extend(report_of(record, now) for record in reports)
        if request.heartbeat or reports:
            self.end.send(request.SerializeToString())
        self.speak_soon()
