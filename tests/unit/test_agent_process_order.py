"""What a job's specification becomes for the launcher, and what a process can't honour."""

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.runtimes import process
from batchyard.agent.runtimes.process import RefusedError, User, find_user, rlimits, start_order
from batchyard.agent.state import Offer
from batchyard.api.common.v1.container_pb2 import (
    Device,
    LinuxParameters,
    MountPoint,
    Tmpfs,
    Ulimit,
    Volume,
)
from support.agent import an_offer

ENVIRON = {"PATH": "/tools", "LANG": "C.UTF-8", "HOME": "/home/agent", "AWS_SECRET_ACCESS_KEY": "secret"}


def order_for(offer: Offer) -> dict[str, Any]:
    return start_order(offer, agent_id="me", log="/logs/job.log", environ=ENVIRON)


def test_the_order_says_how_to_start_the_command() -> None:
    order = order_for(an_offer("echo", "hello", fence=(2, 3), memory_mib=128, vcpus_milli=500))
    assert order["argv"] == ["echo", "hello"]
    assert order["fence"] == (2, 3)
    assert order["need"] == (500, 128, 0)
    assert order["memory_mib"] == 128
    assert order["log"] == "/logs/job.log"
    assert not {"user", "rlimits", "refusal", "timeout_s"} & order.keys()


def test_a_job_inherits_little_of_the_agents_environment() -> None:
    environment = order_for(an_offer("true", environment={"LANG": "fr"}))["env"]
    assert environment["PATH"] == "/tools"
    assert environment["HOME"] == "/home/agent"
    assert environment["LANG"] == "fr"
    assert "AWS_SECRET_ACCESS_KEY" not in environment


def test_a_job_cannot_hide_what_describes_it() -> None:
    environment = order_for(an_offer("true", environment={"AWS_BATCH_JOB_ID": "x", "BATCHYARD_FENCE": "y"}))["env"]
    assert environment["AWS_BATCH_JOB_ID"] == an_offer().spec.job_id
    assert environment["BATCHYARD_FENCE"] == "1-1"
    assert environment["BATCHYARD_AGENT_ID"] == "me"


def test_a_timeout_comes_with_its_grace() -> None:
    order = order_for(an_offer("true", timeout_s=60))
    assert (order["timeout_s"], order["timeout_grace_s"]) == (60, 30.0)


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "volumes": {"volumes": [Volume(name="v")]},
    "mountPoints": {"mount_points": [MountPoint(source_volume="v")]},
    "readonlyRootFilesystem": {"readonly_root_filesystem": True},
    "privileged": {"privileged": True},
    "linuxParameters.devices": {"linux_parameters": LinuxParameters(devices=[Device(host_path="/dev/fuse")])},
    "linuxParameters.tmpfs": {"linux_parameters": LinuxParameters(tmpfs=[Tmpfs(container_path="/t", size=1)])},
    "linuxParameters.sharedMemorySize": {"linux_parameters": LinuxParameters(shared_memory_size=64)},
    "linuxParameters.maxSwap": {"linux_parameters": LinuxParameters(max_swap=64, swappiness=60)},
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_a_process_cannot_honour_is_refused_by_its_name(name: str) -> None:
    refusal = order_for(an_offer("true", **UNSUPPORTED[name]))["refusal"]
    assert refusal == f"the process runtime cannot honour {name}"


def test_what_a_process_cannot_honour_is_refused_with_every_name() -> None:
    members = UNSUPPORTED["volumes"] | UNSUPPORTED["mountPoints"] | UNSUPPORTED["privileged"]
    refusal = order_for(an_offer("true", readonly_root_filesystem=True, **members))["refusal"]
    assert refusal.endswith("volumes, mountPoints, readonlyRootFilesystem, privileged")


def test_swap_that_is_none_and_an_init_process_are_what_a_process_has() -> None:
    parameters = LinuxParameters(init_process_enabled=True, max_swap=0, swappiness=60)
    assert "refusal" not in order_for(an_offer("true", linux_parameters=parameters))


def test_false_is_not_a_demand() -> None:
    assert "refusal" not in order_for(an_offer("true", readonly_root_filesystem=False))


def test_an_unknown_user_is_refused() -> None:
    assert "unable to find user no-such-user" in order_for(an_offer("true", user="no-such-user"))["refusal"]


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("54321", User(54321, 0, is_known=False)),
        ("54321:99", User(54321, 99, is_known=False)),
        ("54321:root", User(54321, 0, is_known=False)),
        ("root", User(0, 0, True, "root", "/root")),
        ("0:7", User(0, 7, False, "root", "/root")),
    ],
)
def test_users_are_found_by_name_and_number(text: str, user: User) -> None:
    assert find_user(text) == user


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(RefusedError, match="unable to find group no-such-group"):
        find_user("0:no-such-group")


@pytest.mark.parametrize("text", ["2147483648", "0:2147483648", "99999999999999999999"])
def test_a_number_that_no_user_or_group_can_have_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="must be in range 0-2147483647"):
        find_user(text)


def test_only_root_starts_processes_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "runs as uid 1000 and cannot start a process as uid 0" in order_for(an_offer("true", user="root"))["refusal"]


def test_a_job_of_the_agents_own_user_needs_no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getegid", lambda: 99)
    order = order_for(an_offer("true", user="54321:99"))
    assert "user" not in order
    assert "refusal" not in order


def a_limit(name: str, soft: int, hard: int) -> Ulimit:
    return Ulimit(name=name, soft_limit=soft, hard_limit=hard)


def test_limits_are_passed_on() -> None:
    assert rlimits([a_limit("nofile", 10, 20), a_limit("core", 0, 0)]) == [("nofile", 10, 20), ("core", 0, 0)]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (a_limit("files", 1, 1), "invalid ulimit type: files"),
        (a_limit("nofile", 20, 10), "soft limit 20 is higher than hard limit 10"),
        (a_limit("nofile", -1, 10), "soft limit -1 is higher than hard limit 10"),
    ],
)
def test_limits_without_sense_are_refused(limit: Ulimit, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        rlimits([limit])


def test_a_limit_above_the_hosts_own_is_refused_where_it_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    monkeypatch.setattr(process, "_may_raise_limits", lambda: False)
    with pytest.raises(RefusedError, match="error setting rlimit nofile to 101: operation not permitted"):
        rlimits([a_limit("nofile", 100, 101)])
    assert rlimits([a_limit("nofile", 100, 100)]) == [("nofile", 100, 100)]


def test_more_open_files_than_the_kernel_allows_anyone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nr_open").write_text("1000\n")
    monkeypatch.setattr(process, "_FILES_MAX", tmp_path / "nr_open")
    monkeypatch.setattr(process, "_may_raise_limits", lambda: True)
    assert rlimits([a_limit("nofile", 1000, 1000)]) == [("nofile", 1000, 1000)]
    for hard in (1001, -1):
        with pytest.raises(RefusedError, match=f"error setting rlimit nofile to {hard}: operation not permitted"):
            rlimits([a_limit("nofile", 100, hard)])
