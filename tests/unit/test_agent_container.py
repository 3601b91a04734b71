"""What an engine is asked to create of a job, and what its kind changes of that."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.launcher.processes import OUT_OF_MEMORY
from batchyard.agent.runtimes.address import engine_addresses
from batchyard.agent.runtimes.container import Given, Owner, RefusedError, gpus_of, plan_of
from batchyard.agent.runtimes.dialect import Dialect
from batchyard.agent.runtimes.secrets import Secrets, parse_secrets
from batchyard.api.common.v1.container_pb2 import (
    Device,
    Host,
    KeyValuePair,
    LinuxParameters,
    MountPoint,
    Secret,
    Tmpfs,
    Volume,
)
from support.agent import an_offer

OWNER = Owner("installation", "agent")
PLAIN = Given()
DOCKER, PODMAN, PODMAN_ON_V2 = Dialect(), Dialect(is_podman=True), Dialect(is_podman=True, cgroup_version="2")


def config_of(given: Given = PLAIN, /, **members: Any) -> dict[str, Any]:
    return plan_of(an_offer("true", **members), OWNER, given).config


def host_config_of(given: Given = PLAIN, /, **members: Any) -> dict[str, Any]:
    host: dict[str, Any] = config_of(given, **members)["HostConfig"]
    return host


def test_a_container_carries_the_tags_that_go_on_to_it_and_ours_which_stand_above_them() -> None:
    offer = an_offer("true")
    offer.spec.container_tags.update({"team": "x", "batchyard.agent": "forged"})
    labels = plan_of(offer, OWNER).config["Labels"]
    assert labels["team"] == "x"
    assert labels["batchyard.agent"] == "agent"
    assert labels["batchyard.job"] == offer.spec.job_id


def test_what_a_job_does_not_ask_for_is_left_to_the_engine() -> None:
    assert config_of().keys() == {"Image", "Cmd", "Env", "Labels", "HostConfig"}
    assert host_config_of().keys() == {
        *("Memory", "MemorySwap", "CpuShares", "ReadonlyRootfs", "Privileged", "LogConfig")
    }


def test_cpu_is_a_share_and_a_ceiling_only_if_the_owner_says_so() -> None:
    plain, limited = (host_config_of(Given(is_cpu_limited=limit), vcpus_milli=250) for limit in (False, True))
    assert (plain["CpuShares"], "CpuQuota" in plain) == (256, False)
    assert (limited["CpuShares"], limited["CpuQuota"], limited["CpuPeriod"]) == (256, 25_000, 100_000)


def test_an_engine_keeps_no_more_of_the_output_than_a_log_may_hold_and_podman_is_not_asked_to_empty_it() -> None:
    config = config_of(Given(log_bytes_max=1000))
    bounded = {"Type": "json-file", "Config": {"max-size": "1000", "max-file": "2"}}
    assert config["HostConfig"]["LogConfig"] == bounded
    assert Dialect().adapted(config)["HostConfig"]["LogConfig"] == bounded
    assert Dialect(is_podman=True).adapted(config)["HostConfig"]["LogConfig"] == {"Type": "json-file"}


def test_swap_is_given_on_demand_alone_and_swappiness_beside_it() -> None:
    mib = 1024 * 1024
    assert host_config_of(memory_mib=64)["MemorySwap"] == 64 * mib
    for parameters, swap, swappiness in (
        (LinuxParameters(max_swap=0), 64, None),
        (LinuxParameters(max_swap=32, swappiness=5), 96, 5),
        (LinuxParameters(swappiness=5), 64, None),
    ):
        host = host_config_of(memory_mib=64, linux_parameters=parameters)
        assert (host["MemorySwap"], host.get("MemorySwappiness")) == (swap * mib, swappiness)


def test_devices_and_file_systems_in_memory_are_as_asked() -> None:
    parameters = LinuxParameters(
        shared_memory_size=128,
        devices=[
            Device(host_path="/dev/zero"),
            Device(host_path="/dev/null", container_path="/dev/x", permissions=["READ", "MKNOD"]),
        ],
        tmpfs=[Tmpfs(container_path="/a", size=64, mount_options=["ro", "noexec"]), Tmpfs(container_path="/b")],
    )
    host = host_config_of(linux_parameters=parameters)
    assert host["Devices"] == [
        {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "rwm"},
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rm"},
    ]
    assert host["Tmpfs"] == {"/a": "size=64m,ro,noexec", "/b": ""}
    assert host["ShmSize"] == 128 * 1024 * 1024
    assert "Init" not in host


def test_an_engine_gets_the_path_that_was_looked_at_and_not_the_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    volume = Volume(name="v", host=Host(source_path=f"{tmp_path}/link/below"))
    mounts = [MountPoint(container_path="/data", source_volume="v", read_only=True)]
    assert host_config_of(volumes=[volume], mount_points=mounts)["Binds"] == [f"{tmp_path}/real/below:/data:ro"]


def test_a_path_that_an_engine_would_take_apart_is_refused() -> None:
    volume = Volume(name="v", host=Host(source_path="/data"))
    mounts = [MountPoint(container_path="/a:/etc", source_volume="v")]
    with pytest.raises(RefusedError, match="colon: '/a:/etc'"):
        config_of(volumes=[volume], mount_points=mounts)


def test_each_run_has_volumes_of_its_own() -> None:
    members: dict[str, Any] = {
        "volumes": [Volume(name="v")],
        "mount_points": [MountPoint(container_path="/a", source_volume="v")],
    }
    first, second = (plan_of(an_offer("true", fence=(1, number), **members), OWNER) for number in (1, 2))
    assert first.volumes.keys().isdisjoint(second.volumes)
    for labels in first.volumes.values():
        assert labels["batchyard.fence"] == "1-1"


def test_gpus_are_asked_for_by_number_and_found_again_by_label() -> None:
    config = config_of(Given(gpus=(1, 3)), gpus=2)
    assert config["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["1", "3"], "Capabilities": [["gpu"]]}]
    assert gpus_of(config["Labels"]) == (1, 3)
    assert gpus_of(config_of()["Labels"]) == ()


def test_podman_which_would_leave_gpus_out_is_not_asked_for_them() -> None:
    config = config_of(Given(gpus=(0,)), gpus=1)
    assert DOCKER.adapted(config) == config
    with pytest.raises(RefusedError, match="resourceRequirements GPU: Podman"):
        PODMAN.adapted(config)


def test_podman_is_told_no_swappiness_where_there_is_none() -> None:
    config = config_of(linux_parameters=LinuxParameters(max_swap=1, swappiness=5))
    assert PODMAN.adapted(config)["HostConfig"]["MemorySwappiness"] == 5
    assert "MemorySwappiness" not in PODMAN_ON_V2.adapted(config)["HostConfig"]


def ran_for(seconds: str) -> dict[str, str]:
    return {"StartedAt": "2026-01-01T00:00:00.000000001Z", "FinishedAt": f"2026-01-01T00:00:{seconds}Z"}


@pytest.mark.parametrize(
    ("dialect", "state", "is_killed_here", "reason"),
    [
        (DOCKER, {"ExitCode": 137, "OOMKilled": True}, False, OUT_OF_MEMORY),
        (DOCKER, {"ExitCode": 137, "OOMKilled": False, **ran_for("01.000000001")}, False, ""),
        (DOCKER, {"ExitCode": 137, "OOMKilled": False, **ran_for("00.030000001")}, True, ""),
        (DOCKER, {"ExitCode": 1, "OOMKilled": False, **ran_for("00.030000001")}, False, ""),
        # A child was killed, and the container made the best of it.
        (DOCKER, {"ExitCode": 0, "OOMKilled": True}, False, ""),
        (PODMAN, {"ExitCode": 137, "OOMKilled": False}, True, ""),
        (PODMAN, {"ExitCode": 1, "OOMKilled": False}, False, ""),
        (PODMAN_ON_V2, {"ExitCode": 137, "OOMKilled": False}, False, ""),
        (PODMAN_ON_V2, {"ExitCode": 137, "OOMKilled": True}, False, OUT_OF_MEMORY),
    ],
)
def test_memory_is_the_reason_where_the_engine_says_so(
    dialect: Dialect, state: Mapping[str, Any], is_killed_here: bool, reason: str
) -> None:
    assert dialect.outcome(state, is_killed_here=is_killed_here).out_of_memory == reason


@pytest.mark.parametrize(
    ("dialect", "times"),
    # Docker watches what runs, and does not learn of what had been killed before it began to.
    [(PODMAN, {}), (DOCKER, ran_for("00.030000001"))],
)
def test_what_is_inferred_is_said_to_be(dialect: Dialect, times: Mapping[str, str]) -> None:
    reason = dialect.outcome({"ExitCode": 137, "OOMKilled": False, **times}, is_killed_here=False).out_of_memory
    assert reason.startswith(OUT_OF_MEMORY)
    assert "inferred" in reason


# Secrets


def variables_of(given: Secrets, /, **members: Any) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in config_of(Given(secrets=given), **members)["Env"])


def test_a_secret_stands_above_a_variable_of_its_name_and_is_read_at_each_start(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    secrets = parse_secrets([f"arn:aws:ssm:x:y:parameter/key=file:{file}"])
    wanted = [Secret(name="KEY", value_from="arn:aws:ssm:x:y:parameter/key")]
    for text, value in (("first\n", "first"), ("two\nlines\n\n", "two\nlines\n")):
        file.write_text(text)
        assert variables_of(secrets, secrets=wanted, environment={"KEY": "plain"})["KEY"] == value


@pytest.mark.parametrize("content", [b"\xff", b"a\0b"])
def test_a_secret_that_no_variable_can_hold_fails_the_job_without_being_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    secrets = parse_secrets([f"key=file:{tmp_path}/secret"])
    with pytest.raises(RefusedError, match="ResourceInitializationError: secret KEY: file:") as caught:
        variables_of(secrets, secrets=[Secret(name="KEY", value_from="key")])
    assert "a\0b" not in str(caught.value)


@pytest.mark.parametrize("text", ["name", "name=", "name=HOME", "name=env:", "=env:HOME", "name=file:relative"])
def test_a_secret_without_a_sensible_source_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_secrets([text])


def test_a_secret_has_one_source() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_secrets(["a=env:X", "a=env:Y"])


def test_the_name_of_the_role_is_not_put_in_the_place_of_a_jobs_own() -> None:
    own = {"AWS_ROLE_ARN": "own"}
    assert variables_of(Secrets(), job_role_arn="arn", environment=own)["AWS_ROLE_ARN"] == "own"
    assert "AWS_ROLE_ARN" not in variables_of(Secrets())
    pairs = [KeyValuePair(name="A", value="b=c")]
    assert variables_of(Secrets(), environment={pair.name: pair.value for pair in pairs})["A"] == "b=c"


# Where the engine is


def test_what_is_configured_stands_above_the_environment_and_both_above_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///environment")
    assert list(engine_addresses("unix:///configured")) == ["unix:///configured"]
    assert list(engine_addresses(None)) == ["unix:///environment"]


def test_sockets_of_engines_without_root_are_found_and_the_one_used_before_is_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("run/docker.sock", "run/podman/podman.sock"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(name, 0o140600)
    own = [
        url for url in engine_addresses(None) if "run/" in url and not url.startswith(("unix:///var", "unix:///run"))
    ]
    assert own == ["unix://run/docker.sock", "unix://run/podman/podman.sock"]
    before = "unix://run/podman/podman.sock"
    assert next(iter(engine_addresses(None, before))) == before
