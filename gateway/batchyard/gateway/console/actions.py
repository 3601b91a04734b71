"""What the console's buttons do: one call of an operation each, then the page to go to."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias
from urllib.parse import quote

import msgspec

from batchyard.domain.names import Caller
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.console.api import Api

Form: TypeAlias = Mapping[str, str]
Action: TypeAlias = Callable[[Api, Caller, Form], Awaitable[str]]
"""Returns the path of the page that shows the effect."""

DEFAULT_REASON: Final = "Ended from the console"


async def cancel(api: Api, caller: Caller, form: Form) -> str:
    """Cancel a job that has not started."""
    await api.call(caller, "CancelJob", {"jobId": form.get("job", ""), "reason": form.get("reason") or DEFAULT_REASON})
    return _job(form.get("job", ""))


async def terminate(api: Api, caller: Caller, form: Form) -> str:
    """End a job."""
    members = {"jobId": form.get("job", ""), "reason": form.get("reason") or DEFAULT_REASON}
    await api.call(caller, "TerminateJob", members)
    return _job(form.get("job", ""))


async def submit(api: Api, caller: Caller, form: Form) -> str:
    """Submit what the form's text says, in AWS's members."""
    try:
        request = msgspec.json.decode(form.get("request", ""))
    except msgspec.DecodeError as error:
        raise AwsError(400, "", f"The request is not JSON: {error}") from error
    answer = await api.call(caller, "SubmitJob", request)
    return _job(answer["jobId"])


async def set_queue_state(api: Api, caller: Caller, form: Form) -> str:
    """Let a queue take jobs, or take none."""
    queue = form.get("queue", "")
    await api.call(caller, "UpdateJobQueue", {"jobQueue": queue, "state": form.get("state", "")})
    return f"/queues/{quote(queue, safe='')}"


async def drain(api: Api, caller: Caller, form: Form) -> str:
    """Have an agent offered no more jobs."""
    members: dict[str, object] = {"agentId": form.get("agent", "")}
    limit = form.get("limit", "").strip()
    if limit:
        if not (limit.isascii() and limit.isdigit()):
            raise AwsError(400, "", f"The limit must be a number of seconds, not {limit!r}.")
        members["limitSeconds"] = int(limit)
    await api.call(caller, "DrainAgent", members)
    return "/agents"


async def resume(api: Api, caller: Caller, form: Form) -> str:
    """Have a drained agent offered jobs again."""
    await api.call(caller, "ResumeAgent", {"agentId": form.get("agent", "")})
    return "/agents"


ACTIONS: Final[Mapping[str, Action]] = {
    "cancel": cancel,
    "terminate": terminate,
    "submit": submit,
    "queue-state": set_queue_state,
    "drain": drain,
    "resume": resume,
}


def _job(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe=':')}"
