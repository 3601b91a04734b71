"""What of its host an agent lets jobs have, and how it says no."""

from pathlib import Path

import pytest

from batchyard.agent.policy import ENGINE_SOCKETS, Policy, resolve
from batchyard.api.common.v1.container_pb2 import Device, Host, LinuxParameters, Volume
from batchyard.api.jobs.v1.jobs_pb2 import ContainerDetail

LINKS = {"/var/run": "/run", "/data/link": "/etc"}


def resolved(path: str) -> str:
    """Resolve paths of a host that has just these links."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts[-1:] = []
        elif part:
            parts.append(part)
            parts = LINKS.get("/" + "/".join(parts), "/" + "/".join(parts)).split("/")[1:]
    return "/" + "/".join(parts)


def with_volume(path: str | None) -> ContainerDetail:
    return ContainerDetail(image="i", volumes=[Volume(name="v", host=Host(source_path=path))])


def with_device(path: str) -> ContainerDetail:
    return ContainerDetail(image="i", linux_parameters=LinuxParameters(devices=[Device(host_path=path)]))


def refusal(container: ContainerDetail, **allowed: object) -> str | None:
    return Policy(**allowed).refusal(container, resolved)  # type: ignore[arg-type]


def test_what_needs_nothing_of_the_host_is_not_refused() -> None:
    container = with_volume(None)
    container.volumes.append(Volume(name="empty", host=Host(source_path="")))
    container.user = "root"
    assert refusal(container) is None


def test_privileged_is_off_until_it_is_allowed() -> None:
    container = ContainerDetail(privileged=True)
    assert refusal(container) == "privileged is not allowed on this agent (--allow-privileged)"
    assert refusal(container, allow_privileged=True) is None
    assert refusal(ContainerDetail(privileged=False)) is None


@pytest.mark.parametrize("path", ["/data", "/data/", "/data/deep/er", "/data/../data/x", "/other/../data", "//data/x"])
def test_a_host_path_under_an_allowed_one_may_be_had(path: str) -> None:
    assert refusal(with_volume(path), host_paths=("/data",)) is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc", "/etc"),
        ("/", "/"),
        ("/database", "/database"),
        ("/data/../etc", "/data/../etc (that is /etc)"),
        ("/data/link", "/data/link (that is /etc)"),
        ("/data/link/passwd", "/data/link/passwd (that is /etc/passwd)"),
    ],
)
def test_any_other_host_path_is_refused_by_its_member_and_the_flag(path: str, said: str) -> None:
    reason = refusal(with_volume(path), host_paths=("/data",))
    assert reason == f"volumes[v].host.sourcePath is not allowed on this agent (--allow-host-path): {said}"


def test_without_a_list_no_host_path_may_be_had() -> None:
    assert "--allow-host-path" in str(refusal(with_volume("/data")))


@pytest.mark.parametrize("path", ["data", "./data", "data\0", "/data\0"])
def test_a_path_that_an_engine_would_take_for_something_else_is_refused(path: str) -> None:
    assert "must be an absolute path" in str(refusal(with_volume(path), host_paths=("/",)))
    assert "must be an absolute path" in str(refusal(with_device(path), devices=("/",)))


@pytest.mark.parametrize("path", ["/var/run/docker.sock", "/run/docker.sock", "/run", "/var/run", "/"])
def test_an_engines_socket_must_be_named_itself(path: str) -> None:
    wide = ("/", "/var/run")
    assert "engine's socket" in str(refusal(with_volume(path), host_paths=wide))
    named = (*wide, *ENGINE_SOCKETS)
    assert refusal(with_volume(path), host_paths=named) is None
    assert "engine's socket" in str(refusal(with_volume("/"), host_paths=named[:-1]))


def test_what_lies_beside_a_guarded_folder_may_be_had_and_what_lies_in_it_only_by_its_name() -> None:
    guarding = Policy(host_paths=("/srv", "/srv/agent/logs")).guarding("/srv/agent")
    assert guarding.refusal(with_volume("/srv/data"), resolved) is None
    assert guarding.refusal(with_volume("/srv/agent/logs/1"), resolved) is None
    for path in ("/srv", "/srv/agent", "/srv/agent/launcher"):
        assert "the agent's own files" in str(guarding.refusal(with_volume(path), resolved))


def test_devices_are_off_until_they_are_allowed() -> None:
    reason = "linuxParameters.devices[].hostPath is not allowed on this agent (--allow-device): /dev/fuse"
    assert refusal(with_device("/dev/fuse")) == reason
    assert refusal(with_device("/dev/fuse"), host_paths=("/",)) == reason
    assert refusal(with_device("/dev/fuse"), devices=("/dev/fuse",)) is None
    assert refusal(with_device("/dev/dri/card0"), devices=("/dev/dri",)) is None
    assert "(that is /dev/sda)" in str(refusal(with_device("/dev/dri/../sda"), devices=("/dev/dri",)))
    assert refusal(with_device("/dev"), devices=("/dev/dri",)) is not None


def test_all_that_is_refused_is_named_at_once() -> None:
    container = with_volume("/etc")
    container.privileged = True
    container.linux_parameters.devices.add(host_path="/dev/fuse")
    reason = str(refusal(container))
    assert [flag in reason for flag in ("--allow-privileged", "--allow-host-path", "--allow-device")] == [True] * 3


def test_links_on_the_disk_are_followed(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "allowed" / "way-out").symlink_to(tmp_path / "secret")
    (tmp_path / "also-allowed").symlink_to(tmp_path / "allowed")
    policy = Policy(host_paths=(str(tmp_path / "also-allowed"),))
    assert policy.refusal(with_volume(str(tmp_path / "allowed" / "new"))) is None
    assert policy.refusal(with_volume(str(tmp_path / "allowed" / "way-out" / "x"))) is not None
    assert resolve(f"/{tmp_path}/also-allowed/../allowed/way-out") == str((tmp_path / "secret").resolve())
