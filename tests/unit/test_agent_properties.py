"""Container properties that are kept and shown, and of which no runtime makes anything."""

from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.runtimes.container import Owner, plan_of
from batchyard.agent.runtimes.process import start_order
from batchyard.api.common.v1.container_pb2 import (
    EphemeralStorage,
    FargatePlatformConfiguration,
    LogConfiguration,
    NetworkConfiguration,
    RepositoryCredentials,
    RuntimePlatform,
)
from support.agent import an_offer

IGNORED: dict[str, Any] = {
    "execution_role_arn": "arn:aws:iam::123456789012:role/r",
    "instance_type": "m5.large",
    "log_configuration": LogConfiguration(log_driver="syslog", options={"tag": "x"}),
    "network_configuration": NetworkConfiguration(assign_public_ip="ENABLED"),
    "fargate_platform_configuration": FargatePlatformConfiguration(platform_version="1.4.0"),
    "enable_execute_command": True,
    "ephemeral_storage": EphemeralStorage(size_in_gi_b=21),
    "runtime_platform": RuntimePlatform(operating_system_family="LINUX", cpu_architecture="ARM64"),
    "repository_credentials": RepositoryCredentials(credentials_parameter="arn"),
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_no_runtime_acts_on_changes_nothing(name: str) -> None:
    plain, asking = an_offer("true"), an_offer("true", **{name: IGNORED[name]})
    owner = Owner("installation", "agent")
    assert plan_of(asking, owner) == plan_of(plain, owner)
    settings: dict[str, Any] = {"agent_id": "agent", "log": Path("/log"), "environ": {}}
    assert start_order(asking, **settings) == start_order(plain, **settings)
