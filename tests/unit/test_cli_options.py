"""The flags of all commands, and the text that goes with them."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batchyard.agent.runtimes.settings import PullSettings
from batchyard.cli.agent_host import HostOptions, agent_host
from batchyard.cli.main import main
from batchyard.cli.options import listening
from batchyard.cli.run import job_name_for
from batchyard.jobstore.app import LEADER_LEASE_S
from batchyard.scheduler.config import SchedulerConfig

SCREEN_LINES, SCREEN_COLUMNS = 24, 80
COMMANDS = main.list_commands(click.Context(main))


def options_of(name: str) -> list[click.Option]:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_the_environment_variable_of_its_name_and_says_what_it_is_for(name: str) -> None:
    for option in options_of(name):
        flag = option.opts[0].removeprefix("--")
        assert option.envvar == "BATCHYARD_" + flag.upper().replace("-", "_")
        assert option.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_fits_a_screen_and_names_every_flag(name: str) -> None:
    lines = CliRunner().invoke(main, [name, "--help"], terminal_width=80).output.splitlines()
    assert len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= SCREEN_COLUMNS
    words = re.split(r"[\s,]+", "\n".join(lines))
    families = tuple(word.removesuffix("…") for word in words if word.endswith("-…"))
    for option in options_of(name):
        flag = next(flag for flag in option.opts if flag.startswith("--"))
        assert flag in words or flag.startswith(families)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("certificates", "completion")])
def test_all_of_every_flag_is_told_to_those_who_ask(name: str) -> None:
    told = CliRunner().invoke(main, [name, "--help-all"], terminal_width=120)
    assert told.exit_code == 0
    for option in options_of(name):
        assert option.opts[0] in told.output
        assert str(option.envvar) in re.sub(r"\s+", "", told.output)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_all_commands_are_named_on_a_screen_those_for_a_beginning_with_what_they_do(arguments: list[str]) -> None:
    lines = CliRunner().invoke(main, arguments, prog_name="batchyard", terminal_width=80).output.splitlines()
    assert len(lines) < SCREEN_LINES  # a prompt follows
    assert max(map(len, lines)) <= SCREEN_COLUMNS
    named = {word for line in lines if line.startswith("  ") for word in re.split(r"[\s,]+", line)}
    assert named >= set(COMMANDS)
    explained = [line.split()[0] for line in lines[lines.index("First steps:") + 1 : lines.index("More commands:") - 1]]
    assert explained == COMMANDS[: len(explained)]
    assert {"up", "run", "submit", "jobs", "logs", "wait"} <= set(explained)


def test_all_commands_are_explained_in_a_line_each_to_those_who_ask() -> None:
    lines = CliRunner().invoke(main, ["--help-all"], terminal_width=80).output.splitlines()
    explained = [line.split()[0] for line in lines if re.match(r"  [a-z]+ {2,}[A-Z]", line)]
    assert sorted(explained) == sorted([*COMMANDS, "logs"])  # a command and a service
    assert max(map(len, lines)) <= SCREEN_COLUMNS


@pytest.mark.parametrize(
    ("name", "told"), [("nothing", "No such command 'nothing'.\n"), ("job", "'job'. Did you mean jobs?\n")]
)
def test_an_unknown_command_is_refused(name: str, told: str) -> None:
    result = CliRunner().invoke(main, [name])
    assert result.exit_code == 2
    assert result.output.endswith(told)


def test_run_refuses_what_is_no_assignment() -> None:
    result = CliRunner().invoke(main, ["run", "--env", "NOTHING", "true"])
    assert result.exit_code == 2
    assert "NAME=VALUE" in result.output


@pytest.mark.parametrize(
    ("program", "name"),
    [("/usr/bin/python3.11", "python3-11"), ("train.sh", "train-sh"), ("--", "run"), ("x" * 200, "x" * 128)],
)
def test_a_job_is_named_for_its_program(program: str, name: str) -> None:
    assert job_name_for(program) == name


def test_the_times_of_leases_default_to_those_of_the_services() -> None:
    defaults = {option.name: option.default for name in ("scheduler", "jobstore") for option in options_of(name)}
    config = SchedulerConfig()
    assert defaults["heartbeat_interval"] == config.heartbeat_interval_s
    assert defaults["suspicion"] == config.suspicion_s
    assert defaults["lease"] == config.lease_s
    assert defaults["kill_budget"] == config.kill_budget_s
    assert defaults["leader_lease"] == LEADER_LEASE_S


def test_times_that_contradict_each_other_are_refused() -> None:
    result = CliRunner().invoke(main, ["scheduler", "--heartbeat-interval", "20"])
    assert result.exit_code == 2
    assert "suspicion_s must be more than heartbeat_interval_s" in result.output


@pytest.mark.parametrize("name", ["up", "agent"])
@pytest.mark.parametrize(
    ("capacity", "told"), [("vcpu=4", "'vcpu=4' is not vcpus=N"), ("memory=0GiB", "must be more than nothing")]
)
def test_a_capacity_that_says_nothing_sensible_is_told_at_once(name: str, capacity: str, told: str) -> None:
    result = CliRunner().invoke(main, [name, "--data-dir", "/no/such/folder", "--capacity", capacity])
    assert result.exit_code == 2
    assert "Invalid value for '--capacity'" in result.output
    assert told in " ".join(result.output.split())


def a_command() -> tuple[click.Command, list[HostOptions]]:
    given: list[HostOptions] = []

    @click.command()
    @agent_host()
    def command(host_options: HostOptions) -> None:
        given.append(host_options)

    return command, given


def test_what_a_host_offers_is_passed_on_to_the_local_agent_as_it_was_given() -> None:
    command, given = a_command()
    flags = ["--runtime", "process", "--capacity", "vcpus=4", "--allow-privileged", "--stop-jobs"]
    flags += ["--reserve-vcpus", "0.5", "--reserve-memory", "2GiB"]
    paths = ["--allow-host-path", "/data", "--allow-host-path", "/a:b", "--allow-device", "/dev/fuse"]
    flags += ["--secret", "a=env:X", "--secret", "b=file:/b", "--stop-timeout", "5", "--cpu-hard-limit"]
    flags += ["--docker-network", "host", "--image-pull-policy", "always", "--image-pull-timeout", "60"]
    assert CliRunner().invoke(command, [*flags, *paths]).exit_code == 0
    assert given[0].pulls == PullSettings("always", 60)
    assert given[0].secrets.sources.keys() == {"a", "b"}
    assert given[0].policy().host_paths == ("/data", "/a:b")
    assert (given[0].reserve_vcpus, given[0].reserve_mib) == (0.5, 2048)
    assert CliRunner().invoke(command, given[0].arguments()).exit_code == 0
    assert given[0] == given[1]


def test_nothing_of_a_host_is_given_by_default() -> None:
    command, given = a_command()
    CliRunner().invoke(command, [])
    policy = given[0].policy()
    assert (policy.allow_privileged, policy.host_paths, policy.devices) == (False, (), ())


def test_paths_in_the_environment_are_separated_by_colons() -> None:
    command, given = a_command()
    CliRunner(env={"BATCHYARD_ALLOW_HOST_PATH": "/data:/scratch"}).invoke(command, [])
    assert given[0].allow_host_path == ("/data", "/scratch")


def test_a_path_that_is_allowed_must_be_absolute() -> None:
    result = CliRunner().invoke(main, ["agent", "--allow-host-path", "data"])
    assert result.exit_code == 2
    assert "'data' is not an absolute path" in result.output


def test_a_secret_without_a_source_is_told_at_once() -> None:
    result = CliRunner().invoke(main, ["agent", "--secret", "key=VARIABLE"])
    assert result.exit_code == 2
    assert "'key=VARIABLE' is not NAME=env:VARIABLE or NAME=file:PATH" in " ".join(result.output.split())


def test_a_reserve_of_no_size_is_refused() -> None:
    result = CliRunner().invoke(main, ["agent", "--reserve-memory", "much"])
    assert result.exit_code == 2
    assert "'much' is not a size such as 512MiB" in result.output


@pytest.mark.parametrize("name", ["up", "gateway"])
def test_a_file_of_access_keys_that_others_may_read_is_told_at_once(name: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("[keys.A]\nsecret = 'a secret of enough characters'")
    keys.chmod(0o644)
    result = CliRunner().invoke(main, [name, "--access-keys", str(keys)])
    assert result.exit_code == 2
    assert "others may read" in result.output


@pytest.mark.parametrize(("given", "host"), [("[::1]", "::1"), ("::1", "::1"), ("127.0.0.1", "127.0.0.1")])
def test_an_address_of_ipv6_may_stand_in_brackets(given: str, host: str) -> None:
    command = click.command()(listening(8080)(lambda **values: click.echo(values["host"])))
    assert CliRunner().invoke(command, ["--host", given]).output == f"{host}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--agent-host", "0.0.0.0", "--agent-port", "0"), "--agent-host 0.0.0.0 can be reached from other machines"),
        (("--agent-host", "127.0.0.1"), "--agent-host is for --agent-port, which is missing"),
    ],
)
def test_up_serves_agents_to_all_the_world_by_no_mistake(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["up", "--data-dir", str(tmp_path), "--no-agent", *arguments])
    assert result.exit_code == 2
    assert said in result.output
    assert not list(tmp_path.iterdir())
