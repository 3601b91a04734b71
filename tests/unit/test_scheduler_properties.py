"""The planner against an independent model of its rules, over random histories."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from batchyard.domain.arrays import only
from batchyard.domain.jobs import Fence, array_and_index
from batchyard.scheduler.model import Plan, QueuedChildren, QueuedJob, ResourceKey
from batchyard.scheduler.planner import Planner
from support.scheduler import (
    NAMESPACE,
    Model,
    a_job,
    a_queue,
    an_agent,
    an_array,
    an_environment,
    job_key,
)

QUEUES = st.sampled_from(["high", "low-1", "low-2", "unknown"])
ENVIRONMENTS = ("first", "second")
AGENTS = st.sampled_from([f"agent-{number}" for number in range(5)])
NEVER = 1e9


class PlannerMachine(RuleBasedStateMachine):
    """Tells a planner and the model the same, and checks every decision."""

    starvation_bound_s = NEVER
    ceilings: st.SearchStrategy[int | None] = st.none() | st.integers(0, 12)
    agent_vcpus = st.integers(1, 8)
    job_vcpus = st.integers(1, 8)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sequence = 0
        self.fences = 0
        self.history: list[Callable[[Planner], object]] = []
        self.plans: list[Plan] = []
        self.planner = self.new_planner()
        self.model = Model(self.starvation_bound_s)
        self.proposed: list[str] = []
        self.running: dict[str, Fence] = {}
        self.ended: dict[str, QueuedJob] = {}
        self.jobs: dict[str, QueuedJob] = {}
        self.arrays: dict[str, tuple[QueuedChildren, set[int]]] = {}
        """Each array, and its children that are not to be placed yet."""
        self.without_row: set[str] = set()
        """Children that have never been offered."""
        self.upheavals = True

    def new_planner(self) -> Planner:
        return Planner(starvation_bound_s=self.starvation_bound_s, reason_delay_s=1)

    def tell(self, event: Callable[[Planner], object]) -> None:
        self.history.append(event)
        event(self.planner)
        self.planner.sanity_check()

    @initialize(upheavals=st.booleans(), agents=st.integers(0, 2), data=st.data())
    def begin(self, upheavals: bool, agents: int, data: st.DataObject) -> None:
        """Begin with the usual; without upheavals queues, environments and agents mostly stay as they are."""
        self.upheavals = upheavals
        self.put_queue("high", 1, list(ENVIRONMENTS))
        self.put_queue("low-1", 2, ["second", "first"])
        self.put_queue("low-2", 2, ["first"])
        self.put_environment("first", None, True, True)
        self.put_environment("second", None, True, True)
        for number in range(agents):
            self.agent_joins(f"agent-{number}", data.draw(self.agent_vcpus), 4096, 2, [])

    @precondition(lambda self: self.upheavals)
    @rule(
        name=st.sampled_from(["high", "low-1", "low-2"]),
        priority=st.integers(1, 3),
        environments=st.lists(st.sampled_from(ENVIRONMENTS), min_size=1, unique=True),
    )
    def put_queue(self, name: str, priority: int, environments: list[str]) -> None:
        spec = a_queue(name, priority=priority, environments=tuple(environments))
        self.model.queues[name] = spec
        self.tell(lambda planner: planner.put_queue(spec))

    @precondition(lambda self: self.upheavals)
    @rule(name=st.sampled_from(["high", "low-1", "low-2"]))
    def drop_queue(self, name: str) -> None:
        self.model.queues.pop(name, None)
        self.tell(lambda planner: planner.drop_queue(ResourceKey(NAMESPACE, name)))

    @precondition(lambda self: self.upheavals)
    @rule(
        name=st.sampled_from(ENVIRONMENTS),
        max_vcpus=st.data(),
        enabled=st.sampled_from([True, True, True, False]),
        valid=st.sampled_from([True, True, True, False]),
    )
    def change_environment(self, name: str, max_vcpus: st.DataObject, enabled: bool, valid: bool) -> None:
        self.put_environment(name, max_vcpus.draw(self.ceilings), enabled, valid)

    def put_environment(self, name: str, max_vcpus: int | None, enabled: bool, valid: bool) -> None:
        spec = an_environment(name, max_vcpus=max_vcpus, enabled=enabled, valid=valid)
        self.model.environments[name] = spec
        self.tell(lambda planner: planner.put_environment(spec))

    @precondition(lambda self: self.upheavals)
    @rule(name=st.sampled_from(ENVIRONMENTS))
    def drop_environment(self, name: str) -> None:
        self.model.environments.pop(name, None)
        self.tell(lambda planner: planner.drop_environment(ResourceKey(NAMESPACE, name)))

    @precondition(lambda self: self.upheavals)
    @rule(
        agent_id=AGENTS,
        vcpus=st.runner().flatmap(lambda self: self.agent_vcpus),
        memory_mib=st.sampled_from([256, 1024, 4096]),
        gpus=st.integers(0, 2),
        environments=st.lists(st.sampled_from(ENVIRONMENTS), unique=True),
    )
    def agent_joins(self, agent_id: str, vcpus: int, memory_mib: int, gpus: int, environments: list[str]) -> None:
        known = self.model.agents.get(agent_id)
        agent = an_agent(
            agent_id,
            vcpus=vcpus,
            memory_mib=memory_mib,
            gpus=gpus,
            environments=tuple(environments),
            incarnation=known.incarnation + 1 if known else 1,
        )
        self.model.agents[agent_id] = agent
        self.model.suspended.discard(agent_id)
        self.tell(lambda planner: planner.agent_joined(agent))

    @precondition(lambda self: self.upheavals)
    @rule(agent_id=AGENTS)
    def agent_is_suspended(self, agent_id: str) -> None:
        self.model.suspended.add(agent_id)
        self.tell(lambda planner: planner.agent_suspended(agent_id))

    @precondition(lambda self: self.upheavals)
    @rule(agent_id=AGENTS)
    def agent_is_drained(self, agent_id: str) -> None:
        self.model.drained.add(agent_id)
        self.tell(lambda planner: planner.agent_drained(agent_id))

    @precondition(lambda self: self.model.drained)
    @rule(data=st.data())
    def agent_is_drained_no_more(self, data: st.DataObject) -> None:
        agent_id = data.draw(st.sampled_from(sorted(self.model.drained)))
        self.model.drained.discard(agent_id)
        self.tell(lambda planner: planner.agent_undrained(agent_id))
        self.agent_is_resumed(agent_id)

    @rule(agent_id=AGENTS)
    def agent_is_resumed(self, agent_id: str) -> None:
        self.model.suspended.discard(agent_id)
        self.tell(lambda planner: planner.agent_resumed(agent_id))

    @precondition(lambda self: self.upheavals)
    @rule(agent_id=AGENTS)
    def agent_is_gone(self, agent_id: str) -> None:
        self.model.agents.pop(agent_id, None)
        self.tell(lambda planner: planner.agent_gone(agent_id))

    @rule(
        queue=QUEUES,
        vcpus=st.runner().flatmap(lambda self: self.job_vcpus),
        memory_mib=st.sampled_from([128, 128, 128, 1024]),
        gpus=st.sampled_from([0, 0, 0, 1]),
        count=st.integers(1, 4),
    )
    def jobs_are_queued(self, queue: str, vcpus: int, memory_mib: int, gpus: int, count: int) -> None:
        for _ in range(count):
            self.sequence += 1
            self.queue(
                a_job(
                    f"job-{self.sequence}",
                    sequence=self.sequence,
                    queue=queue,
                    vcpus=vcpus,
                    memory_mib=memory_mib,
                    gpus=gpus,
                )
            )

    @rule(
        queue=QUEUES,
        vcpus=st.runner().flatmap(lambda self: self.job_vcpus),
        size=st.integers(2, 6),
        indices=st.sets(st.integers(0, 5)),
    )
    def array_is_queued(self, queue: str, vcpus: int, size: int, indices: set[int]) -> None:
        sequence = self.sequence + 1
        self.sequence += 1 + size
        array = an_array(f"array-{sequence}", range(size), sequence=sequence, queue=queue, vcpus=vcpus)
        self.arrays[array.array.job_id] = (array, set(range(size)))
        self.release_children(array.array.job_id, {index for index in indices if index < size})

    @precondition(lambda self: self.arrays)
    @rule(data=st.data(), indices=st.sets(st.integers(0, 5)))
    def more_children_are_queued(self, data: st.DataObject, indices: set[int]) -> None:
        self.release_children(data.draw(st.sampled_from(sorted(self.arrays))), indices)

    def release_children(self, array_id: str, indices: set[int]) -> None:
        array, pending = self.arrays[array_id]
        released = sorted(indices & pending)
        pending.difference_update(released)
        for index in released:
            child = array.child(index)
            self.jobs[child.key.job_id] = self.model.waiting[child.key.job_id] = child
            self.without_row.add(child.key.job_id)
        entry = replace(array, indices=sum(only(index) for index in released))
        if released:
            self.tell(lambda planner: planner.queue_children(entry))

    @precondition(lambda self: self.arrays)
    @rule(data=st.data())
    def array_is_withdrawn(self, data: st.DataObject) -> None:
        array_id = data.draw(st.sampled_from(sorted(self.arrays)))
        _, pending = self.arrays[array_id]
        pending.clear()
        for job_id in sorted(self.without_row):
            if job_id.startswith(f"{array_id}:"):
                self.model.leave_line(job_id)
        self.tell(lambda planner: planner.withdraw_job(job_key(array_id)))

    def queue(self, job: QueuedJob) -> None:
        job_id = job.key.job_id
        self.jobs[job_id] = job
        waiting = self.model.waiting.get(job_id)
        if waiting is not None and (waiting.job_queue, waiting.need) != (job.job_queue, job.need):
            self.model.leave_line(job_id)
        self.model.waiting[job_id] = job
        self.tell(lambda planner: planner.queue_job(job))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def ended_job_is_tried_again(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.ended)))
        job = self.ended.pop(job_id)
        self.queue(
            QueuedJob(job.key, job.job_queue, job.sequence, job.need, job.version + 1),
        )

    @precondition(lambda self: self.model.waiting.keys() - self.without_row)
    @rule(data=st.data(), queue=QUEUES, moves=st.booleans())
    def waiting_job_changes(self, data: st.DataObject, queue: str, moves: bool) -> None:
        job = self.model.waiting[data.draw(st.sampled_from(sorted(self.model.waiting.keys() - self.without_row)))]
        self.queue(QueuedJob(job.key, queue if moves else job.job_queue, job.sequence, job.need, job.version + 1))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def job_is_withdrawn(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        self.model.leave_line(job_id)
        self.tell(lambda planner: planner.withdraw_job(job_key(job_id)))

    @precondition(lambda self: self.proposed)
    @rule(accepted=st.integers(0, 3), comes_again=st.booleans())
    def proposal_is_answered(self, accepted: int, comes_again: bool) -> None:
        job_id = self.proposed.pop(0)
        if accepted:
            self.fences += 1
            fence = self.running[job_id] = Fence(1, self.fences)
            self.without_row.discard(job_id)
            self.tell(lambda planner: planner.offer_accepted(job_key(job_id), fence))
            return
        job = self.jobs[job_id]
        if job_id in self.without_row:
            self.child_is_refused(job, comes_again)
            return
        again = QueuedJob(job.key, job.job_queue, job.sequence, job.need, job.version + 1)
        if comes_again:
            self.jobs[job_id] = self.model.waiting[job_id] = again
            self.tell(lambda planner: planner.queue_job(again))
        del self.model.taken[job_id]
        self.tell(lambda planner: planner.offer_refused(job_key(job_id)))

    def child_is_refused(self, child: QueuedJob, comes_again: bool) -> None:
        del self.model.taken[child.key.job_id]
        self.tell(lambda planner: planner.offer_refused(child.key))
        found = array_and_index(child.key)
        assert found is not None
        array, _ = self.arrays[found[0].job_id]
        if comes_again:
            self.model.waiting[child.key.job_id] = child
            self.tell(lambda planner: planner.queue_children(replace(array, indices=only(found[1]))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def run_ends(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        fence = self.running.pop(job_id)
        del self.model.taken[job_id]
        self.ended[job_id] = self.jobs[job_id]
        self.tell(lambda planner: planner.run_ended(fence))

    @rule(passes=st.sampled_from([0.0, 0.5, 2.0, 10.0]), offers_max=st.none() | st.integers(1, 3))
    def plan(self, passes: float, offers_max: int | None) -> None:
        self.now += passes
        now = self.now
        plan = self.plan_once(now, offers_max)
        while plan.next_deadline is not None and plan.next_deadline <= now:
            assert len(plan.offers) == 1 or len(plan.offers) == offers_max
            plan = self.plan_once(now, offers_max)
        self.model.check_nothing_left(now)
        self.check_capacity()

    def decide(self, now: float, offers_max: int | None) -> Plan:
        plan = self.planner.plan(now, offers_max=offers_max)
        self.planner.sanity_check()
        self.history.append(lambda planner: self.plans.append(planner.plan(now, offers_max=offers_max)))
        return plan

    def plan_once(self, now: float, offers_max: int | None) -> Plan:
        plan = self.decide(now, offers_max)
        for offer in plan.offers:
            self.model.check_offer(offer, now)
            self.proposed.append(offer.job.job_id)
        for reason in plan.wait_reasons:
            waiting = {(job.job_queue, job.need) for job in self.model.waiting.values()}
            assert not reason.reason or (reason.queue.name, reason.need) in waiting
        return plan

    def check_capacity(self) -> None:
        for agent in self.model.agents.values():
            used = self.planner.use_of(agent.agent_id).used
            assert used == self.model.used(agent.agent_id)

    def teardown(self) -> None:
        """Equal histories give equal plans."""
        first, second = self.new_planner(), self.new_planner()
        for event in self.history:
            event(first)
        plans, self.plans = self.plans, []
        for event in self.history:
            event(second)
        assert plans == self.plans


class HoldingPlannerMachine(PlannerMachine):
    """The same with a short bound, so that room is held; without ceilings, for which the model knows no holds."""

    starvation_bound_s = 2.0
    ceilings = st.none()
    agent_vcpus = st.integers(6, 8)
    job_vcpus = st.sampled_from([1, 1, 2, 6, 7])

    def plan_once(self, now: float, offers_max: int | None) -> Plan:
        """Look at what is held before each single decision."""
        self.decide(now, 0)
        held = {agent_id: self.planner.held_for(agent_id) for agent_id in self.model.agents}
        self.model.held = {agent_id: holder for agent_id, holder in held.items() if holder is not None}
        self.model.check_holds(now)
        return super().plan_once(now, 1)


PlannerMachine.TestCase.settings = settings(max_examples=75, stateful_step_count=60, deadline=None)
HoldingPlannerMachine.TestCase.settings = settings(max_examples=75, stateful_step_count=60, deadline=None)


TestPlannerFollowsTheRules = PlannerMachine.TestCase
TestPlannerHoldsRoom = HoldingPlannerMachine.TestCase
