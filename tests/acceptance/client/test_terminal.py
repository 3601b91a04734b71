"""The commands for people on a terminal: its width, its colours, what is typed there, and Ctrl-C."""

import json
import re
from pathlib import Path

import pytest

from support.aws import LARGE, Account
from support.installation import ANY_PORTS, HOST_OPTIONS, Installation
from support.terminal import has_colour, on_terminal, piped, plain

pytestmark = pytest.mark.usefixtures("account")


def test_what_users_write_is_no_order_to_a_terminal(up: Installation, account: Account) -> None:
    job_id = account.submit(["printf", "a\nb\x1b[31mc"], containerOverrides=LARGE)
    account.batch.cancel_job(jobId=job_id, reason="two\nlines and \x1b[31mred")
    assert "  two lines and  [31mred\n" in piped(up, "describe", job_id).stdout
    written, _ = on_terminal(up, "jobs", "--limit", "1", columns=200)
    assert "two lines and  [31mred" in written


def test_on_a_terminal_a_true_bar_goes_up_to_the_end(up: Installation, account: Account, tmp_path: Path) -> None:
    # A quarter of the children ends whenever the bar has shown the one before.
    wait = f"until [ -e {tmp_path}/$((AWS_BATCH_JOB_ARRAY_INDEX / 25)) ]; do sleep 0.05; done"
    array = account.submit(["sh", "-c", wait], arrayProperties={"size": 100})

    def release(written: str) -> bool:
        for quarter in range(4):
            if f" {25 * quarter}/100" in written:
                (tmp_path / str(quarter)).touch()
        return False

    written, code = on_terminal(up, "wait", array, until=release)
    assert code == 0
    shown = [int(count) for count in re.findall(r"(\d+)/100\b", written)]
    assert shown == sorted(shown)
    assert {0, 25, 50, 75} <= set(shown)
    assert shown[-1] == 100
    assert "100 succeeded" in written
    assert re.search(r"\d\.\d/s", written)
    assert re.search(r"\d:\d\d:\d\d", written)
    assert "\x1b[32mSUCCEEDED" in written


def test_above_the_bar_stands_why_an_array_waits(up: Installation, account: Account) -> None:
    array = account.submit(arrayProperties={"size": 5}, containerOverrides=LARGE)
    seen = f"batchyard: job {array} waits: MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - "
    written, code = on_terminal(up, "wait", array, until=lambda written: "0/5" in plain(written).partition(seen)[2])
    assert code == 130
    assert written.count(seen) == 1
    account.batch.cancel_job(jobId=array, reason="seen")


def test_the_bar_of_ten_thousand_children_counts_them_all(up: Installation, account: Account) -> None:
    array = account.submit(arrayProperties={"size": 10_000}, containerOverrides=LARGE)
    written, code = on_terminal(up, "wait", "--timeout", "0", array)
    assert code == 124
    assert "0/10000" in written
    assert "10000 waiting" in written
    account.batch.cancel_job(jobId=array, reason="enough")
    written, code = on_terminal(up, "wait", array, columns=200)
    assert code == 1
    assert "10000/10000" in written
    assert "10000 failed" in written
    assert "enough: 0, 1, 2, 3, 4 and 9995 more" in written


def test_a_terminal_can_be_without_colours_and_never_cuts_an_id(up: Installation, account: Account) -> None:
    job_id = account.submit(jobName="a-name-that-is-much-longer-than-what-a-narrow-terminal-has-room-for")
    account.wait(job_id)
    written, code = on_terminal(up, "jobs", "--limit", "1", columns=80, NO_COLOR="1")
    assert code == 0
    assert job_id in written
    assert "…" in written
    assert {"SUCCEEDED", "queue"} <= set(plain(written).split())
    assert not has_colour(written)
    assert all(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip()) <= 80 for line in written.splitlines())


def test_a_watched_list_changes_with_its_jobs_until_it_is_interrupted(up: Installation, account: Account) -> None:
    job_id = account.submit(jobName="watched", containerOverrides=LARGE)
    seen: list[str] = []

    def enough(written: str) -> bool:
        if not seen and "RUNNABLE" in written:
            seen.append("RUNNABLE")
            account.batch.cancel_job(jobId=job_id, reason="seen on a terminal")
        return "seen on a terminal" in written

    written, code = on_terminal(up, "jobs", "--name", "watched", "--watch", columns=160, until=enough)
    assert code == 130
    assert written.index("RUNNABLE") < written.index("FAILED")
    assert "Traceback" not in written
    assert "for a terminal" in piped(up, "jobs", "--watch", code=2).stderr


def test_top_shows_queues_agents_and_what_runs_and_follows_them(up: Installation, account: Account) -> None:
    job_id = account.submit(["sleep", "600"], jobName="long")
    account.wait(job_id, "RUNNING")

    def enough(written: str) -> bool:
        if job_id in written and account.describe(job_id)["status"] == "RUNNING":
            account.batch.terminate_job(jobId=job_id, reason="seen")
        return job_id in written and job_id not in written.rpartition(" agents, ")[2] and "RUNNING" in written[-400:]

    try:
        written, code = on_terminal(up, "top", columns=160, until=enough)
    finally:
        account.batch.terminate_job(jobId=job_id, reason="over")
    assert code == 130
    assert "Traceback" not in written
    told = json.loads(piped(up, "top", "--output", "json").stdout)
    assert [agent["status"] for agent in told["agents"]] == ["ACTIVE"]
    assert {queue["jobQueueName"] for queue in told["queues"]} == {"queue"}
    assert piped(up, "top").stdout.startswith("1 of 1 agents, ")


@pytest.mark.parametrize("command", ["queues", "agents", "top"])
def test_tables_fit_a_narrow_terminal_with_what_counts_whole(up: Installation, command: str) -> None:
    # What is live goes on until somebody has seen enough.
    until = (lambda written: "RUNNING" in written) if command == "top" else None
    written, _ = on_terminal(up, command, columns=80, until=until)
    lines = [line.rstrip() for line in plain(written).replace("^C", "").splitlines()]
    assert max(map(len, lines)) <= 80
    words = set("\n".join(lines).split())
    assert {"queues": {"queue", "ENABLED"}, "agents": {"ACTIVE"}, "top": {"ACTIVE"}}[command] <= words


@pytest.mark.parametrize("command", ["queues", "environments", "agents", "usage", "describe", "logs", "run"])
def test_a_terminal_shows_what_a_pipe_gets_and_colours(up: Installation, account: Account, command: str) -> None:
    job_id = account.submit(["echo", "hello"], jobName="shown")
    account.wait(job_id)
    arguments = {
        "describe": [job_id],
        "logs": [job_id],
        "run": ["--queue", "queue", "--log-level", "error", "--", "echo", "hello"],
    }.get(command, [])
    written, code = on_terminal(up, command, *arguments, columns=200)
    assert code == 0
    assert "Traceback" not in written
    shown = set(plain(written).split())
    # Some of it is different a moment later: what has run, and for how long.
    expected = set(piped(up, command, *arguments).stdout.split())
    assert len(shown & expected) >= len(expected) / 2


def test_jobs_that_are_typed_are_submitted_and_waited_for(up: Installation) -> None:
    job = "jobName: typed\njobQueue: queue\njobDefinition: definition\n"
    written, code = on_terminal(up, "submit", "--wait", "-", typed=job)
    assert code == 0
    assert "1 succeeded" in written
    assert plain(written).splitlines()[-1].split()[1:3] == ["typed", "SUCCEEDED"]
    assert has_colour(written)


def test_what_is_refused_is_told_beside_what_is_accepted(up: Installation, account: Account, tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    good, bad = [
        f"- {{jobName: {name}, jobQueue: {queue}, jobDefinition: definition}}\n"
        for name, queue in (("good", "queue"), ("bad", "nowhere"))
    ]
    file.write_text(good + bad)
    written, code = on_terminal(up, "submit", str(file), columns=60)
    refused, job_id = plain(written).splitlines()
    assert (code, refused) == (1, "batchyard: bad: JobQueue nowhere not found.")
    assert account.wait(job_id)["jobName"] == "good"


@pytest.mark.parametrize("command", ["cancel", "terminate"])
def test_jobs_are_ended_without_a_question(up: Installation, account: Account, command: str) -> None:
    waiting = [account.submit(containerOverrides=LARGE) for _ in range(2)]
    written, code = on_terminal(up, command, "-", "--reason", "enough", "no job", typed="\n".join(waiting) + "\n")
    said = plain(written).splitlines()
    assert code == 1
    assert said[-3:-1] == waiting
    assert said[-1].startswith("batchyard: 'no job': ")
    assert not has_colour(written)
    assert [account.wait(job_id)["statusReason"] for job_id in waiting] == ["enough", "enough"]


@pytest.mark.parametrize("command", ["cancel", "submit"])
def test_ctrl_c_ends_a_command_that_waits_for_what_is_typed(up: Installation, command: str) -> None:
    written, code = on_terminal(up, command, "-", until=lambda written: "Ctrl-C gives up\r\n" in written)
    said, rest = plain(written).split("\r\n")
    assert said.startswith("batchyard: type ")
    assert (rest, code) == ("^C", 130)


def test_ctrl_c_gives_the_cursor_back_that_a_bar_has_hidden(up: Installation, account: Account) -> None:
    job_id = account.submit(containerOverrides=LARGE)
    written, code = on_terminal(up, "wait", job_id, until=lambda written: "1 waiting" in written)
    assert code == 130
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    account.batch.cancel_job(jobId=job_id, reason="seen")


def test_a_drain_that_is_interrupted_says_what_stays(up: Installation, account: Account) -> None:
    job_id = account.submit(["sleep", "600"])
    agent = account.wait(job_id, "RUNNING")["container"]["containerInstanceArn"].rpartition("/")[2]
    try:
        written, code = on_terminal(up, "drain", "--wait", agent, until=lambda written: f"{job_id}\r\n" in written)
        begun, told, *rest = plain(written).splitlines()
        assert (code, begun, rest) == (130, f"agent {agent} is DRAINING, 1 on it: {job_id}", [])
        assert told == "^Cbatchyard: the agent stays drained; it takes jobs again with --resume"
        assert not has_colour(written)
    finally:
        account.batch.terminate_job(jobId=job_id, reason="seen")
        resumed = on_terminal(up, "drain", "--resume", agent)
    assert resumed == (f"agent {agent} takes jobs again\r\n", 0)


def test_events_are_lines_for_people_until_ctrl_c(up: Installation, account: Account) -> None:
    first = account.submit(jobName="first")
    account.wait(first)
    listing = ("events", "--output", "table", "--status", "SUCCEEDED")
    seen: list[str] = []

    def enough(written: str) -> bool:
        if not seen and first in written:
            seen.append(account.submit(jobName="second"))
        return bool(seen) and "\n" in written.partition(seen[0])[2]

    written, code = on_terminal(up, *listing, "--follow", "--replay", columns=60, until=enough)
    assert code == 130
    *_, before, last, interrupt = plain(written).split("\r\n")
    assert before.split()[1:4] == ["SUCCEEDED", first, "first"]
    assert last.split()[1:4] == ["SUCCEEDED", seen[0], "second"]
    assert interrupt == "^C"
    assert has_colour(written)
    colourless, _ = on_terminal(up, *listing, columns=60, NO_COLOR="1")
    assert not has_colour(colourless)
    assert plain(colourless).split("\r\n")[:-1] == plain(written).split("\r\n")[:-1]
    for line in on_terminal(up, "events", "--job", first, columns=60)[0].splitlines():
        assert json.loads(line)["detail"]["jobId"] == first


def test_a_terminal_shows_what_a_job_prints_and_then_the_job_for_programs(up: Installation) -> None:
    flags = ("--queue", "queue", "--output", "json", "--log-level", "error")
    written, code = on_terminal(up, "run", *flags, "--", "sh", "-c", "echo hi; exit 3")
    said, brace, document = written.partition("{")
    assert (code, said.splitlines()[0]) == (3, "hi")
    assert json.loads(brace + document)["jobs"][0]["container"]["exitCode"] == 3


def test_ctrl_c_stops_all_of_up_in_order(up: Installation, tmp_path: Path) -> None:
    arguments = ("up", "--data-dir", str(tmp_path / "data"), *ANY_PORTS, *HOST_OPTIONS)
    written, code = on_terminal(up, *arguments, until=lambda written: "batchyard ready http" in written)
    assert code == 0
    # The agent, which has the same terminal, is stopped by its parent.
    assert written.count("stopping signal=SIGINT") == 1
    assert "started again" not in written
