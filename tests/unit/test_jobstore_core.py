import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.domain.errors import InvalidRequestError, NotFoundError, WrongStateError
from batchyard.domain.jobs import AgentId, Fence, JobKey, RunReport
from batchyard.domain.lifecycle import JobState, RunEnd, RunState
from batchyard.jobstore.core import CommandError, each
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.offers import Cause, Proposal
from batchyard.jobstore.views import job_detail
from batchyard.storage.jobs import QueueCopy, StorageError
from support.jobs import AGENT, ENVIRONMENT, NAMESPACE, QUEUE, Store, a_job, a_key

# Submission


def test_a_submitted_job_is_runnable_and_given_to_the_scheduler(store: Store) -> None:
    submission = Submission(a_job(), b"spec", ())
    committed = store.do(lambda group: group.submit(submission))
    job = store.job(a_key())
    assert (job.state, job.created_at) == (JobState.RUNNABLE, 1000)
    assert [(queued.key, queued.version) for queued in store.queued(committed)] == [(job.key, job.version)]
    assert [change.state for change in committed.changes] == [JobState.RUNNABLE]


def test_jobs_are_numbered_in_the_order_of_their_submission(store: Store) -> None:
    keys = [store.submit(f"job-{number}") for number in range(3)]
    assert [store.job(key).sequence for key in keys] == [1, 2, 3]


def test_of_many_that_one_command_takes_in_each_is_refused_for_itself(store: Store) -> None:
    jobs = [a_job("first"), a_job("second", queue="elsewhere"), a_job("third")]
    acts = [partial(Group.submit, new=Submission(job, b"", ())) for job in jobs]
    (answers,) = store.group(each(acts)).answers
    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [type(None), NotFoundError, type(None)]
    assert [store.job(a_key(name)).sequence for name in ("first", "third")] == [1, 2]


def test_a_job_for_a_queue_that_the_store_does_not_know_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError, match="JobQueue elsewhere not found"):
        store.submit(queue="elsewhere")


def test_a_job_for_a_closed_queue_is_refused(store: Store) -> None:
    store.do(lambda group: group.settle([_queue(is_open=False, revision=2)]))
    with pytest.raises(WrongStateError, match="JobQueue queue is not in ENABLED state"):
        store.submit()


def test_a_job_that_waits_for_an_unknown_one_is_refused_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(InvalidRequestError, match="Job nobody does not exist"):
        store.submit(after=("nobody",))
    assert store.writer.jobs([a_key()]) == []


# The way of a run


def test_an_offer_leaves_the_job_runnable_and_carries_its_spec(store: Store) -> None:
    key = store.submit()
    proposal = Proposal(key, store.job(key).version, AGENT, 1, "environment")
    committed = store.do(lambda group: group.offer(proposal))
    (outcome,) = committed.effects.offers
    assert outcome.job is not None
    assert outcome.job.run is not None
    assert (outcome.spec, outcome.refusal) == (b"spec of job", None)
    assert store.job(key).state is JobState.RUNNABLE
    assert store.job(key).run == outcome.job.run


@pytest.mark.parametrize(
    ("driver", "prefix", "begins"),
    [
        ("awslogs", "team/one", "team/one"),
        ("awslogs", "/a b//c.d/", "a_b/c_d"),
        ("awslogs", "//", "definition"),
        ("awslogs", "", "definition"),
        ("json-file", "team", "definition"),
    ],
)
def test_a_log_stream_begins_as_the_log_configuration_says(store: Store, driver: str, prefix: str, begins: str) -> None:
    spec = JobSpec()
    spec.container.log_configuration.log_driver = driver
    spec.container.log_configuration.options["awslogs-stream-prefix"] = prefix
    store.do(lambda group: group.submit(Submission(a_job(), spec.SerializeToString(), ())))
    run = store.offer(a_key())
    assert run.log_stream_name == f"{begins}/default/{run.task_id}"
    store.restart()
    assert store.job(a_key()).run == run


@pytest.mark.parametrize(
    "proposal",
    [
        Proposal(a_key(), 99, AGENT, 1, "environment"),
        Proposal(a_key("unknown"), 1, AGENT, 1, "environment"),
        Proposal(a_key(), 1, AGENT, 2, "environment"),
        Proposal(a_key(), 1, AgentId("stranger"), 1, "environment"),
    ],
)
def test_a_proposal_that_is_not_true_is_refused_and_the_job_is_offered_for_placing_again(
    store: Store, proposal: Proposal
) -> None:
    store.submit()
    committed = store.do(lambda group: group.offer(proposal))
    (outcome,) = committed.effects.offers
    assert outcome.job is None
    assert outcome.refusal is not None
    assert [queued.key for queued in store.queued(committed)] == ([a_key()] if proposal.key == a_key() else [])


def test_a_job_is_offered_once_at_a_time(store: Store) -> None:
    key = store.submit()
    version = store.job(key).version
    run = store.offer(key)
    committed = store.do(lambda group: group.offer(Proposal(key, version, AGENT, 1, "environment")))
    refusal = committed.effects.offers[0].refusal
    assert refusal is not None
    assert (refusal.cause, refusal.text) == (Cause.JOB, "the job has changed")
    assert store.job(key).run == run


def test_fences_grow_and_never_repeat_over_restarts(store: Store) -> None:
    fences = [store.offer(store.submit("first")).fence, store.offer(store.submit("second")).fence]
    store.restart()
    fences.append(store.offer(store.submit("third")).fence)
    assert fences == sorted(set(fences))
    assert fences[2].epoch > fences[1].epoch


def test_a_job_goes_through_every_state_as_its_agent_reports(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.CLAIMED)
    assert store.job(key).state is JobState.STARTING
    store.now = 2000
    store.report(key, run, RunState.STARTED, started_ago_ms=100)
    job = store.job(key)
    assert (job.state, job.started_at, job.log_stream_name) == (JobState.RUNNING, 1900, run.log_stream_name)
    store.now = 3000
    committed = store.report(key, run, RunState.DONE, started_ago_ms=1100, ended_ago_ms=10, exit_code=0)
    job = store.job(key)
    assert (job.state, job.stopped_at, job.exit_code) == (JobState.SUCCEEDED, 2990, 0)
    assert job.status_reason == "Essential container in task exited"
    assert [(ended.fence, ended.ran_for_ms) for ended in committed.effects.ended] == [(run.fence, 1090)]


def test_a_report_of_the_end_alone_passes_every_state(store: Store) -> None:
    key = store.submit()
    committed = store.run_to_end(key)
    assert [change.state for change in committed.changes] == [JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]


def test_a_repeated_report_is_acknowledged_and_changes_nothing(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=0)
    before = store.job(key)
    committed = store.report(key, run, RunState.CLAIMED)
    assert [(outcome.stale, outcome.state) for outcome in committed.effects.reports] == [(False, RunState.CLAIMED)]
    assert not committed.written
    assert store.job(key) == before


def test_a_report_with_another_fence_is_stale_and_changes_nothing(store: Store) -> None:
    key = store.submit(attempts=2)
    first = store.offer(key)
    store.report(key, first, RunState.DONE, started_ago_ms=1, exit_code=1)
    second = store.offer(key)
    committed = store.report(key, first, RunState.DONE, started_ago_ms=1, exit_code=0)
    assert committed.effects.reports[0].stale
    assert store.job(key).run == second
    assert store.job(key).attempts_made == 1


def test_a_report_of_another_incarnation_is_stale(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    committed = store.report(key, run, RunState.DONE, incarnation=2, exit_code=0)
    assert committed.effects.reports[0].stale
    assert store.job(key).state is JobState.RUNNABLE


def test_each_attempt_names_the_cluster_of_the_environment_that_it_was_offered_in(store: Store) -> None:
    known = replace(
        ENVIRONMENT, created=2, cluster_arn=f"arn:aws:ecs:eu-west-1:{NAMESPACE}:cluster/environment_Batch_a"
    )
    store.do(lambda group: group.settle([], [known]))
    key = store.submit(attempts=3)
    run = store.offer(key)
    # Another environment of that name comes while the attempt is made, and one that nothing is known of.
    other = replace(known, revision=2, created=9, cluster_arn=known.cluster_arn.replace("_a", "_b"))
    store.do(lambda group: group.settle([], [other]))
    store.report(key, run, RunState.DONE, exit_code=1)
    run = store.offer(key)
    store.do(lambda group: group.settle([], [replace(ENVIRONMENT, revision=3)]))
    store.report(key, run, RunState.DONE, exit_code=1)
    store.report(key, store.offer(key), RunState.DONE, exit_code=1)
    (record,) = store.reader.describe([key])
    spec = JobSpec(job_arn=f"arn:aws:batch:us-east-1:{NAMESPACE}:job/{key.job_id}", job_definition_arn="arn")
    detail = job_detail(replace(record, spec=spec.SerializeToString()))
    prefix = f"arn:aws:ecs:eu-west-1:{NAMESPACE}:container-instance/environment_Batch_"
    assert [attempt.container.container_instance_arn for attempt in detail.attempts] == [
        f"{prefix}a/{AGENT}",
        f"{prefix}b/{AGENT}",
        f"arn:aws:ecs:us-east-1:{NAMESPACE}:container-instance/batchyard/{AGENT}",
    ]
    tasks = [attempt.container.task_arn.split("/")[:-1] for attempt in detail.attempts]
    assert tasks[0] == [f"arn:aws:ecs:eu-west-1:{NAMESPACE}:task", "environment_Batch_a"]
    assert detail.container.container_instance_arn == detail.attempts[-1].container.container_instance_arn


def test_what_an_earlier_program_did_not_note_of_an_environment_is_taken_from_the_same_revision(store: Store) -> None:
    fuller = replace(ENVIRONMENT, created=1, cluster_arn="arn:aws:ecs:us-east-1:1:cluster/c")
    store.do(lambda group: group.settle([], [fuller]))
    assert store.reader.environments() == [fuller]
    revision = store.reader.revision()
    store.do(lambda group: group.settle([], [fuller]))
    assert store.reader.revision() == revision


def test_times_never_go_back_even_if_the_clock_does(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.now = 500
    store.report(key, run, RunState.DONE, started_ago_ms=900, ended_ago_ms=800, exit_code=0)
    job = store.job(key)
    assert job.started_at is not None
    assert job.stopped_at is not None
    assert job.created_at <= job.started_at <= job.stopped_at


def test_an_attempt_that_could_not_start_has_neither_times_nor_exit_code(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.DONE, end=RunEnd.START_FAILED, reason="CannotStartContainerError: no such file")
    job = store.job(key)
    assert (job.state, job.status_reason) == (JobState.FAILED, "Task failed to start")
    assert (job.started_at, job.stopped_at, job.exit_code, job.log_stream_name) == (None, None, None, None)
    (attempt,) = store.reader.describe([key])[0].attempts
    assert (attempt.started_at, attempt.exit_code, attempt.log_stream_name) == (None, None, None)
    assert attempt.reason == "CannotStartContainerError: no such file"


def test_a_long_reason_is_cut_to_what_aws_allows(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.DONE, end=RunEnd.START_FAILED, reason="x" * 300)
    assert store.job(key).reason == "x" * 255


def test_a_failed_attempt_with_attempts_left_is_placed_again_at_its_old_place(store: Store) -> None:
    key = store.submit(attempts=2)
    committed = store.run_to_end(key, exit_code=1)
    assert [(queued.key, queued.sequence) for queued in store.queued(committed)] == [(key, 1)]
    assert store.job(key).state is JobState.RUNNABLE
    assert store.job(key).stopped_at is None
    store.run_to_end(key, exit_code=2)
    assert store.job(key).state is JobState.FAILED
    assert [attempt.exit_code for attempt in store.reader.describe([key])[0].attempts] == [1, 2]


def test_a_claim_that_never_started_is_placed_again_and_costs_no_attempt(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.CLAIMED)
    committed = store.report(key, run, RunState.REVOKED)
    assert [queued.key for queued in store.queued(committed)] == [key]
    assert (store.job(key).state, store.job(key).attempts_made) == (JobState.RUNNABLE, 0)


# Cancel and terminate


def test_a_waiting_job_is_cancelled_at_once(store: Store) -> None:
    key = store.submit()
    result = store.group(lambda group: group.cancel(key, "enough"))
    job = store.job(key)
    assert result.answers == [False]
    assert (job.state, job.status_reason, job.cancelled) == (JobState.FAILED, "enough", True)
    assert list(result.committed.effects.withdrawn) == [key]
    assert store.reader.describe([key])[0].attempts == ()


def test_cancelling_an_offered_job_asks_its_agent_first(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    result = store.group(lambda group: group.cancel(key, "enough"))
    assert result.answers == [True]
    assert [(demand.fence, demand.kill) for demand in result.committed.effects.demands] == [(run.fence, False)]
    assert store.job(key).state is JobState.RUNNABLE
    committed = store.report(key, run, RunState.REVOKED)
    assert committed.decided == {key}
    assert (store.job(key).state, store.job(key).status_reason) == (JobState.FAILED, "enough")


def test_a_cancel_that_loses_against_the_claim_has_no_effect(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.do(lambda group: group.cancel(key, "enough"))
    committed = store.report(key, run, RunState.STARTED, started_ago_ms=0)
    assert committed.decided == {key}
    assert (store.job(key).state, store.job(key).cancelled) == (JobState.RUNNING, False)
    store.report(key, run, RunState.DONE, exit_code=0)
    assert store.job(key).state is JobState.SUCCEEDED


def test_cancelling_a_running_job_succeeds_without_effect(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=0)
    result = store.group(lambda group: group.cancel(key, "enough"))
    assert result.answers == [False]
    assert not result.committed.written
    assert not store.job(key).cancelled


def test_a_terminated_job_fails_when_its_process_is_dead_and_is_not_retried(store: Store) -> None:
    key = store.submit(attempts=3)
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=0)
    result = store.group(lambda group: group.terminate(key, "stop it"))
    assert result.answers == [False]
    assert [(demand.fence, demand.kill) for demand in result.committed.effects.demands] == [(run.fence, True)]
    assert (store.job(key).state, store.job(key).terminated) == (JobState.RUNNING, True)
    store.report(key, run, RunState.DONE, end=RunEnd.STOPPED, exit_code=143)
    job = store.job(key)
    assert (job.state, job.status_reason, job.exit_code) == (JobState.FAILED, "stop it", 143)


def test_the_first_reason_of_a_terminate_stays(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=0)
    store.do(lambda group: group.terminate(key, "first"))
    committed = store.do(lambda group: group.terminate(key, "second"))
    assert not committed.effects.demands
    assert store.job(key).stop_reason == "first"


def test_a_terminate_that_an_agent_has_not_seen_is_carried_out_when_it_claims(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    assert store.group(lambda group: group.terminate(key, "stop it")).answers == [True]
    committed = store.report(key, run, RunState.CLAIMED)
    assert committed.decided == {key}
    assert store.job(key).terminated
    store.report(key, run, RunState.DONE, end=RunEnd.STOPPED)
    assert (store.job(key).state, store.job(key).status_reason) == (JobState.FAILED, "stop it")


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
def test_stopping_what_is_unknown_or_over_succeeds_without_effect(store: Store, verb: str) -> None:
    over = store.submit()
    store.run_to_end(over)
    for key in (over, a_key("unknown")):
        result = store.group(partial(_stop, verb, key))
        assert result.answers == [False]
        assert not result.committed.written


# Dependencies


def test_a_job_waits_until_all_its_dependencies_have_succeeded(store: Store) -> None:
    first, second = store.submit("first"), store.submit("second")
    last = store.submit("last", after=("first", "second", "first"))
    assert store.job(last).state is JobState.PENDING
    store.run_to_end(first)
    assert store.job(last).state is JobState.PENDING
    committed = store.run_to_end(second)
    assert last in committed.effects.runnable
    assert store.job(last).state is JobState.RUNNABLE


def test_a_failed_dependency_fails_its_dependents_and_theirs_at_once(store: Store) -> None:
    first = store.submit("first")
    store.submit("bystander")
    keys = [store.submit("second", after=("first", "bystander")), store.submit("third", after=("second",))]
    store.run_to_end(first, exit_code=1)
    for key in keys:
        assert (store.job(key).state, store.job(key).status_reason) == (JobState.FAILED, "Dependent Job failed")


def test_a_dependency_that_is_retried_is_neither_success_nor_failure(store: Store) -> None:
    first = store.submit("first", attempts=2)
    second = store.submit("second", after=("first",))
    store.run_to_end(first, exit_code=1)
    assert store.job(second).state is JobState.PENDING
    store.run_to_end(first, exit_code=0)
    assert store.job(second).state is JobState.RUNNABLE


def test_a_job_that_waits_for_one_that_has_succeeded_runs_at_once(store: Store) -> None:
    store.run_to_end(store.submit("first"))
    assert store.job(store.submit("second", after=("first",))).state is JobState.RUNNABLE


def test_a_job_that_waits_for_one_that_has_failed_fails_at_once(store: Store) -> None:
    store.run_to_end(store.submit("first"), exit_code=1)
    assert store.job(store.submit("second", after=("first",))).state is JobState.FAILED


def test_a_dependent_that_came_in_the_same_group_is_released_too(store: Store) -> None:
    first = store.submit("first")
    run = store.offer(first)
    report = _done(first, run.fence)
    submission = Submission(a_job("second"), b"", (first,))
    store.group(lambda group: group.submit(submission), lambda group: group.report(AGENT, 1, report))
    assert store.job(a_key("second")).state is JobState.RUNNABLE


def test_a_cancelled_dependency_fails_its_dependents(store: Store) -> None:
    first = store.submit("first")
    second = store.submit("second", after=("first",))
    store.do(lambda group: group.cancel(first, "enough"))
    assert store.job(second).status_reason == "Dependent Job failed"


# Agents


def test_an_agent_that_was_given_up_must_come_with_a_higher_incarnation(store: Store) -> None:
    store.do(lambda group: group.lose_agent(AGENT, 1))
    assert [outcome.accepted for outcome in store.register(incarnation=1).effects.registered] == [False]
    assert [outcome.accepted for outcome in store.register(incarnation=2).effects.registered] == [True]
    assert [outcome.accepted for outcome in store.register(incarnation=1).effects.registered] == [False]


def test_the_runs_of_a_lost_agent_fail_with_the_words_that_retry_rules_match(store: Store) -> None:
    running, offered = store.submit("running"), store.submit("offered")
    store.report(running, store.offer(running), RunState.STARTED, started_ago_ms=0)
    store.offer(offered)
    committed = store.do(lambda group: group.lose_agent(AGENT, 1))
    assert len(committed.effects.ended) == 2
    for key in (running, offered):
        job = store.job(key)
        assert (job.state, job.status_reason) == (JobState.FAILED, "Host EC2 (instance agent-1) terminated.")
        assert job.exit_code is None


def test_giving_up_an_older_incarnation_harms_nobody(store: Store) -> None:
    store.register(incarnation=2)
    key = store.submit()
    store.offer(key, incarnation=2)
    store.do(lambda group: group.lose_agent(AGENT, 1))
    assert store.job(key).run is not None


def test_a_new_incarnation_loses_what_it_claimed_and_gives_back_what_it_never_saw(store: Store) -> None:
    claimed, unseen, ended = (store.submit(name) for name in ("claimed", "unseen", "ended"))
    claimed_run = store.offer(claimed)
    store.report(claimed, claimed_run, RunState.CLAIMED)
    store.offer(unseen)
    ended_run = store.offer(ended)
    store.register(incarnation=2, known=(ended_run.fence,), claimed_before=(claimed_run.fence,))
    assert store.job(claimed).state is JobState.FAILED
    given_back = store.job(unseen)
    assert (given_back.state, given_back.run, given_back.attempts_made) == (JobState.RUNNABLE, None, 0)
    store.report(ended, ended_run, RunState.DONE, incarnation=2, exit_code=0)
    assert store.job(ended).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    "over",
    [
        lambda group: group.register(AGENT, 2, (), ()),
        lambda group: group.lose_agent(AGENT, 1),
    ],
)
def test_an_offer_that_is_over_in_its_own_group_is_refused(store: Store, over: Callable[[Group], None]) -> None:
    # Else its scheduler would wait for the answer, and the job for its scheduler.
    key = store.submit(attempts=2)
    proposal = Proposal(key, store.job(key).version, AGENT, 1, "environment")
    committed = store.group(lambda group: group.offer(proposal), over).committed
    (outcome,) = committed.effects.offers
    assert outcome.refusal is not None
    assert (outcome.refusal.cause, outcome.job) == (Cause.AGENT, None)
    assert not committed.effects.ended
    assert [(job.key, job.version) for job in store.queued(committed)] == [(key, store.job(key).version)]


def test_a_claim_that_a_later_incarnation_does_not_speak_of_is_lost(store: Store) -> None:
    key = store.submit()
    store.report(key, store.offer(key), RunState.STARTED, started_ago_ms=0)
    store.register(incarnation=2)
    assert store.job(key).state is JobState.FAILED


def test_a_claim_that_the_same_incarnation_does_not_speak_of_is_asked_for(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=0)
    committed = store.register(incarnation=1)  # sent before the claim, perhaps, on a stream that was slow
    assert store.job(key).state is JobState.RUNNING
    (demand,) = committed.effects.demands
    assert (demand.fence, demand.kill) == (run.fence, False)
    store.report(key, run, RunState.REVOKED)
    assert store.job(key).state is JobState.FAILED


def test_an_offer_that_its_agent_never_saw_is_given_back_by_its_fence_alone(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.do(lambda group: group.cancel(key, "not wanted"))
    report = RunReport(run.fence, a_key("", namespace=""), RunState.REVOKED)
    store.do(lambda group: group.report(AGENT, 1, report))
    assert (store.job(key).state, store.job(key).status_reason) == (JobState.FAILED, "not wanted")


def test_registering_again_with_all_runs_changes_nothing(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=0)
    committed = store.register(incarnation=1, known=(run.fence,))
    assert committed.effects.registered[0].accepted
    assert not committed.written
    assert store.job(key).state is JobState.RUNNING


# Queues


def test_a_queue_with_unfinished_jobs_cannot_go(store: Store) -> None:
    key = store.submit()
    with pytest.raises(WrongStateError, match="job queue has jobs that have not completed"):
        store.do(lambda group: group.settle([_queue(gone=True, revision=2)]))
    store.run_to_end(key)
    store.do(lambda group: group.settle([_queue(gone=True, revision=2)]))
    with pytest.raises(NotFoundError):
        store.submit("late")


def test_only_another_queue_of_the_name_begins_without_jobs(store: Store) -> None:
    first = store.submit("first")
    store.do(lambda group: group.cancel(first, "enough"))
    # A deletion that is taken back: the registry could not learn that it was taken in here.
    store.do(lambda group: group.settle([_queue(gone=True, revision=2)]))
    store.do(lambda group: group.settle([_queue(revision=3)]))
    assert [job.key for job in store.reader.page(QUEUE.key, JobState.FAILED, None, 9)] == [first]
    store.do(lambda group: group.settle([_queue(gone=True, revision=4)]))
    store.do(lambda group: group.settle([replace(_queue(revision=5), created=5)]))
    assert store.reader.page(QUEUE.key, JobState.FAILED, None, 9) == []
    second = store.submit("second")
    store.do(lambda group: group.settle([replace(_queue(is_open=False, revision=6), created=5)]))
    assert [job.key for job in store.reader.page(QUEUE.key, JobState.RUNNABLE, None, 9)] == [second]


def test_old_news_of_a_queue_is_ignored(store: Store) -> None:
    store.do(lambda group: group.settle([_queue(is_open=False, revision=5)]))
    store.do(lambda group: group.settle([_queue(is_open=True, revision=4)]))
    with pytest.raises(WrongStateError):
        store.submit()


# Groups


def test_a_refused_command_does_not_fail_its_group(store: Store) -> None:
    good, bad = Submission(a_job("good"), b"", ()), Submission(a_job("bad", queue="elsewhere"), b"", ())
    result = store.group(lambda group: group.submit(bad), lambda group: group.submit(good))
    assert isinstance(result.answers[0], NotFoundError)
    assert store.job(a_key("good")).state is JobState.RUNNABLE


def test_a_command_with_an_error_of_ours_leaves_no_trace_and_the_others_are_done(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Submission(a_job("first"), b"", ()), Submission(a_job("second"), b"", ())

    def broken(group: Group) -> None:
        group.submit(second)
        raise ZeroDivisionError("ours")

    result = store.group(lambda group: group.submit(first), broken)
    assert isinstance(result.answers[1], CommandError)
    assert store.job(a_key("first")).state is JobState.RUNNABLE
    assert store.writer.jobs([a_key("second")]) == []
    assert "ours" in caplog.text


def test_a_writer_that_was_superseded_can_write_no_more(store: Store) -> None:
    store.writer.begin_epoch()
    with pytest.raises(StorageError, match="superseded"):
        store.submit()


def test_nothing_of_a_group_is_there_when_its_commit_failed(store: Store) -> None:
    store.connection.execute("CREATE TRIGGER full BEFORE INSERT ON specs BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    with pytest.raises(StorageError, match="disk full"):
        store.submit()
    store.connection.execute("DROP TRIGGER full")
    store.restart()
    assert store.writer.jobs([a_key()]) == []
    assert store.job(store.submit()).state is JobState.RUNNABLE


def test_everything_is_there_again_after_a_restart() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    store = Store(connection)
    store.register()
    key = store.submit()
    run = store.offer(key)
    store.restart()
    store.report(key, run, RunState.DONE, exit_code=0)
    assert store.job(key).state is JobState.SUCCEEDED
    connection.close()


def _stop(verb: str, key: JobKey, group: Group) -> object:
    return getattr(group, verb)(key, "enough")


def _queue(*, is_open: bool = True, gone: bool = False, revision: int) -> QueueCopy:
    return replace(QUEUE, open=is_open, gone=gone, revision=revision)


def _done(key: JobKey, fence: Fence) -> RunReport:
    return RunReport(fence, key, RunState.DONE, exit_code=0)
