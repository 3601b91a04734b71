"""Docker Compose, as people call it, on an engine of the tests."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pytest

from support.pages import ROOT

HOW_TO_GET_IT: Final = "needs Docker Compose: apt-get install docker-compose"


class Compose:
    """A project of the compose file: its own containers and volumes."""

    def __init__(self, engine: str, project: str, variables: Mapping[str, str]) -> None:
        self._engine = engine
        self._containers: dict[str, str] = {}
        self._program = _compose()
        self._variables = {
            **os.environ,
            "DOCKER_HOST": engine,
            "COMPOSE_PROJECT_NAME": project,
            "BATCHYARD_DOCKER_SOCKET": engine.removeprefix("unix://"),
            **variables,
        }

    def shell(self, script: str) -> str:
        """Run lines of shell as people type them, in the repository; return what they print."""
        # Where there is no terminal, the program of old wants to be told.
        script = script.replace("docker compose", self._program).replace(" exec ", " exec -T ")
        done = subprocess.run(
            ["sh", "-e", "-c", script], cwd=ROOT, env=self._variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def __call__(self, *arguments: str) -> str:
        """Run a command of Compose; return what it prints."""
        return self.shell(f"docker compose --file=deploy/compose.yaml {shlex.join(arguments)}")

    def container(self, service: str) -> str:
        """Return the id of a service's container, which stays that of its first."""
        if service not in self._containers:
            self._containers[service] = self("ps", "--quiet", service).strip()
        return self._containers[service]

    def is_healthy(self, service: str) -> bool:
        """Tell whether the image's own check of health, which the engine makes now and then, says so now."""
        test = json.loads(self.inspect(service, "{{json .Config.Healthcheck.Test}}"))
        assert test[0] == "CMD"
        command = ["docker", "-H", self._engine, "exec", self.container(service), *test[1:]]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def inspect(self, service: str, form: str) -> str:
        """Return a part of what the engine knows of a service's container."""
        return self.docker("inspect", "--format", form, self.container(service)).strip()

    def docker(self, *arguments: str) -> str:
        """Run a command of Docker; return what it prints."""
        command = ["docker", "-H", self._engine, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def a_project(engine: str, project: str, variables: Mapping[str, str]) -> Iterator[Compose]:
    """Have a project for the length of the context; nothing of it is left."""
    compose = Compose(engine, project, variables)
    try:
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", "5")


def _compose() -> str:
    """Return the plug-in's command, else that of the program of old; skip where there is neither."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return "docker compose"
    if shutil.which("docker-compose"):
        return "docker-compose"
    pytest.skip(HOW_TO_GET_IT)
