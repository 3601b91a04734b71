"""How a job names the logs of its attempts. Pure."""

import re
from typing import Final

from batchyard.api.agent.v1.run_pb2 import JobSpec

OPTION: Final = "awslogs-stream-prefix"
PREFIX_LENGTH_MAX: Final = 200

_OTHER: Final = re.compile(r"[^A-Za-z0-9_/-]")


def log_stream_prefix(spec: bytes) -> str:
    """Return what the log streams of a job begin with in place of its definition's name, or nothing.

    What the name of a log cannot hold becomes an underscore.
    """
    # Nearly no job has one: not each specification is to be parsed at each offer.
    if OPTION.encode() not in spec:
        return ""
    configuration = JobSpec.FromString(spec).container.log_configuration
    prefix = configuration.options.get(OPTION, "")
    if configuration.log_driver != "awslogs":
        return ""
    return "/".join(filter(None, _OTHER.sub("_", prefix[:PREFIX_LENGTH_MAX]).split("/")))
