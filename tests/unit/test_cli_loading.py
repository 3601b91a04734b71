"""What commands load: the start of `batchyard up` is for the most part imports, and tests of users wait for it."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, sys
from batchyard.cli.loading import load
load(sys.argv[1])
from google.protobuf.wrappers_pb2 import StringValue
assert StringValue.FromString(StringValue(value="a").SerializeToString()).value == "a"
unused = sys.modules["google.protobuf.internal.python_message"]
print(json.dumps([type(unused).__name__, sorted(sys.modules)]))
unused.GeneratedProtocolMessageType  # there when somebody wants it after all
"""


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("batchyard.cli.up", {"uvicorn", "prometheus_client", "platformdirs", "boto3", "rich", "aiodocker"}),
        # Loaded beside all that `up` loads itself, on the same machine.
        (
            "batchyard.cli.agent",
            {"uvicorn", "prometheus_client", "platformdirs", "boto3", "rich", "batchyard.jobstore"},
        ),
        ("batchyard.cli.jobs", {"uvicorn", "prometheus_client", "platformdirs", "boto3", "batchyard.jobstore"}),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_need(module: str, without: set[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=True)
    kind, loaded = json.loads(done.stdout)
    assert kind == "_LazyModule"
    assert not without & set(loaded)
