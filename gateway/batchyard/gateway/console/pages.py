"""What each page shows. A page asks the services and returns a template with what stands in it, in AWS's names."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import anyio
import msgspec

from batchyard.domain.names import Caller
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.console import shapes
from batchyard.gateway.console.api import Api

Json: TypeAlias = Any
Query: TypeAlias = Mapping[str, str]

ALL: Final = "ALL"
"""In place of a status: jobs of every status."""
QUEUES_WITH_REASONS_MAX: Final = 20
FRONT_SHOWN: Final = 20
MINUTES_HEIGHT: Final = 60.0


@dataclass(frozen=True, slots=True)
class View:
    """A template and what it needs."""

    template: str
    context: dict[str, Any]


Page: TypeAlias = Callable[[Api, Caller, Sequence[str], Query], Awaitable[View]]
"""Takes the parts of the path that its pattern names."""


async def overview(api: Api, caller: Caller, _parts: Sequence[str], _query: Query) -> View:
    """Show all queues with their jobs by status, why the oldest waits, and the fleet."""
    counts, queues, agents = await _together(
        api.call(caller, "CountJobs", {}),
        _all(api, caller, "DescribeJobQueues", "jobQueues"),
        api.call(caller, "ListAgents", {}),
    )
    by_queue = {entry["jobQueueName"]: entry["byStatus"] for entry in counts["queues"]}
    rows = [
        {"queue": queue, "counts": by_queue.get(queue["jobQueueName"], {}), "oldest": None}
        for queue in sorted(queues, key=lambda queue: queue["jobQueueName"])
    ]
    waiting = [row for row in rows if row["counts"].get("RUNNABLE") or row["counts"].get("PENDING")]
    fronts = await _together(
        *(_front(api, caller, row["queue"]["jobQueueName"], 1) for row in waiting[:QUEUES_WITH_REASONS_MAX])
    )
    for row, front in zip(waiting, fronts, strict=False):
        row["oldest"] = front[0] if front else None
    return View(
        "overview.html",
        {
            "title": "Overview",
            "live": "agents=1",
            "rows": rows,
            "fleet": _fleet(agents["agents"]),
            "bars": shapes.minute_bars(counts["minutes"], MINUTES_HEIGHT),
            "last_minute": _ended_in(counts["minutes"][-2:-1]),
            "last_hour": _ended_in(counts["minutes"]),
            "now": _now_ms(),
        },
    )


async def queue(api: Api, caller: Caller, parts: Sequence[str], _query: Query) -> View:
    """Show one queue: what it is, what stands in it, who is next."""
    name = parts[0]
    counts, described, front, snapshot = await _together(
        api.call(caller, "CountJobs", {}),
        api.call(caller, "DescribeJobQueues", {"jobQueues": [name]}),
        _front(api, caller, name, FRONT_SHOWN),
        api.call(caller, "GetJobQueueSnapshot", {"jobQueue": name}),
    )
    if not described["jobQueues"]:
        raise AwsError(404, "", f"There is no job queue {name}.")
    found = described["jobQueues"][0]
    names = [entry["computeEnvironment"] for entry in found["computeEnvironmentOrder"]]
    environments = await api.call(caller, "DescribeComputeEnvironments", {"computeEnvironments": names})
    return View(
        "queue.html",
        {
            "title": name,
            "live": f"queue={quote(name)}",
            "queue": found,
            "counts": next((entry["byStatus"] for entry in counts["queues"] if entry["jobQueueName"] == name), {}),
            "environments": environments["computeEnvironments"],
            "front": front,
            "usage": snapshot.get("queueUtilization", {}),
            "now": _now_ms(),
        },
    )


async def jobs(api: Api, caller: Caller, _parts: Sequence[str], query: Query) -> View:
    """List jobs of a queue, newest first, by status, by the beginning of their name, or by time."""
    queues = sorted(queue["jobQueueName"] for queue in await _all(api, caller, "DescribeJobQueues", "jobQueues"))
    chosen = query.get("queue") or ("default" if "default" in queues else next(iter(queues), ""))
    search, status = query.get("q", "").strip(), query.get("status") or ALL
    listed: Json = {"jobSummaryList": []}
    if search and (exact := await api.call(caller, "DescribeJobs", {"jobs": [search]}))["jobs"]:
        listed = {"jobSummaryList": exact["jobs"]}
    elif chosen:
        listed = await api.call(caller, "ListJobs", _listing(chosen, search, status, query))
    counts = await api.call(caller, "CountJobs", {}) if "token" not in query else {"queues": []}
    return View(
        "jobs.html",
        {
            "title": "Jobs",
            "live": f"queue={quote(chosen)}",
            "queues": queues,
            "queue": chosen,
            "status": status,
            "search": search,
            "since": query.get("since", ""),
            "jobs": listed["jobSummaryList"],
            "next_token": listed.get("nextToken"),
            "is_later_page": "token" in query,
            "counts": next((entry["byStatus"] for entry in counts["queues"] if entry["jobQueueName"] == chosen), {}),
            "now": _now_ms(),
        },
    )


def _listing(queue: str, search: str, status: str, query: Query) -> Json:
    members: dict[str, Any] = {"jobQueue": queue, "maxResults": 100}
    since = query.get("since", "")
    if search:
        members["filters"] = [{"name": "JOB_NAME", "values": [f"{search.rstrip('*')}*"]}]
    elif since:
        members["filters"] = [{"name": "AFTER_CREATED_AT", "values": [str(_ms_of(since))]}]
    elif status == ALL:
        members["filters"] = [{"name": "JOB_NAME", "values": ["*"]}]
    else:
        members["jobStatus"] = status
    if token := query.get("token"):
        members["nextToken"] = token
    return members


async def job(api: Api, caller: Caller, parts: Sequence[str], _query: Query) -> View:
    """Show all of one job."""
    job_id = parts[0]
    described = await api.call(caller, "DescribeJobs", {"jobs": [job_id]})
    if not described["jobs"]:
        raise AwsError(404, "", f"There is no job {job_id}. Ended jobs are kept for a set time, then they go.")
    found = described["jobs"][0]
    before_ids = [entry["jobId"] for entry in found["dependsOn"] if entry.get("jobId")]
    is_array = "size" in found.get("arrayProperties", {})
    before, after, statuses = await _together(
        _described(api, caller, before_ids),
        api.call(caller, "ListDependents", {"jobId": job_id}),
        api.child_statuses(caller, job_id) if is_array else _nothing(),
    )
    container = found.get("container", {})
    streams = [
        {"label": f"attempt {number}", "stream": attempt["container"]["logStreamName"]}
        for number, attempt in enumerate(found["attempts"], 1)
        if "logStreamName" in attempt.get("container", {})
    ]
    if "logStreamName" in container and container["logStreamName"] not in {entry["stream"] for entry in streams}:
        streams.append({"label": f"attempt {len(found['attempts']) + 1}", "stream": container["logStreamName"]})
    now = _now_ms()
    return View(
        "job.html",
        {
            "title": found["jobName"],
            "live": "" if found["status"] in shapes.TERMINAL else f"job={quote(job_id)}",
            "job": found,
            "queue": found["jobQueue"].rpartition("/")[2],
            "definition": found["jobDefinition"].rpartition("/")[2],
            "needs": _needs(container),
            "spans": shapes.time_line(found, now),
            "graph": shapes.graph_of(found, before, after["jobs"]) if before or after["jobs"] else None,
            "waits_for": [other for other in before if other["status"] not in (*shapes.TERMINAL, "GONE")],
            "grid": shapes.child_grid(statuses) if statuses else None,
            "parent": job_id.partition(":")[0] if ":" in job_id else None,
            "streams": list(reversed(streams)),
            "request": _resubmission(found),
            "now": now,
        },
    )


async def agents(api: Api, caller: Caller, _parts: Sequence[str], _query: Query) -> View:
    """Show how full each host is, and which of the caller's jobs run on it."""
    answer = await api.call(caller, "ListAgents", {"includeJobs": True, "onlyOwnJobs": True})
    return View(
        "agents.html",
        {
            "title": "Agents",
            "live": "agents=1",
            "agents": answer["agents"],
            "fleet": _fleet(answer["agents"]),
            "now": _now_ms(),
        },
    )


async def definitions(api: Api, caller: Caller, _parts: Sequence[str], _query: Query) -> View:
    """List job definitions by name, each with its newest active revision."""
    found = await _all(api, caller, "DescribeJobDefinitions", "jobDefinitions", {"status": "ACTIVE"})
    newest: dict[str, Json] = {}
    for definition in found:
        known = newest.get(definition["jobDefinitionName"])
        if known is None or known["revision"] < definition["revision"]:
            newest[definition["jobDefinitionName"]] = definition
    rows = [newest[name] for name in sorted(newest)]
    return View("definitions.html", {"title": "Job definitions", "live": "", "definitions": rows})


async def definition(api: Api, caller: Caller, parts: Sequence[str], query: Query) -> View:
    """Show the revisions of a job definition, one of them in full, and how it differs from another."""
    name = parts[0].partition(":")[0]
    found = await _all(api, caller, "DescribeJobDefinitions", "jobDefinitions", {"jobDefinitionName": name})
    if not found:
        raise AwsError(404, "", f"There is no job definition {name}.")
    revisions = sorted(found, key=lambda entry: entry["revision"], reverse=True)
    by_number = {str(entry["revision"]): entry for entry in revisions}
    shown = by_number.get(query.get("revision") or parts[0].partition(":")[2], revisions[0])
    place = revisions.index(shown)
    against = by_number.get(query.get("against", ""), revisions[place + 1] if place + 1 < len(revisions) else None)
    return View(
        "definition.html",
        {
            "title": name,
            "live": "",
            "name": name,
            "revisions": revisions,
            "shown": shown,
            "against": against,
            "text": _pretty(_without_numbers(shown)),
            "differences": _differences(against, shown) if against is not None else [],
        },
    )


PAGES: Final[Sequence[tuple[str, Page]]] = (
    (r"/", overview),
    (r"/queues/([^/]+)", queue),
    (r"/jobs", jobs),
    (r"/jobs/([^/]+)", job),
    (r"/agents", agents),
    (r"/definitions", definitions),
    (r"/definitions/([^/]+)", definition),
)


async def _together(*calls: Awaitable[Json]) -> list[Json]:
    """Await calls at the same time; return their results in order."""
    results: list[Json] = [None] * len(calls)

    async def keep(place: int, call: Awaitable[Json]) -> None:
        results[place] = await call

    try:
        async with anyio.create_task_group() as tasks:
            for place, call in enumerate(calls):
                tasks.start_soon(keep, place, call)
    except* Exception as group:
        raise _first_of(group) from group
    return results


def _first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def _nothing() -> None:
    return None


async def _all(api: Api, caller: Caller, operation: str, member: str, request: Json = None) -> list[Json]:
    """Return all pages of a listing."""
    found: list[Json] = []
    members: dict[str, Any] = dict(request or {})
    while True:
        answer = await api.call(caller, operation, members)
        found += answer[member]
        if "nextToken" not in answer:
            return found
        members["nextToken"] = answer["nextToken"]


async def _described(api: Api, caller: Caller, job_ids: Sequence[str]) -> list[Json]:
    """Describe jobs, in this order; those that are not kept any more by their id alone."""
    if not job_ids:
        return []
    answer = await api.call(caller, "DescribeJobs", {"jobs": list(job_ids)[:100]})
    known = {found["jobId"]: found for found in answer["jobs"]}
    return [known.get(job_id) or {"jobId": job_id, "jobName": "(gone)", "status": "GONE"} for job_id in job_ids]


async def _front(api: Api, caller: Caller, queue: str, limit: int) -> list[Json]:
    """Return the jobs that are next in a queue, with why they wait and since when."""
    snapshot = await api.call(caller, "GetJobQueueSnapshot", {"jobQueue": queue})
    places = snapshot.get("frontOfQueue", {}).get("jobs", [])[:limit]
    since = {place["jobArn"].rpartition("/")[2]: place.get("earliestTimeAtPosition") for place in places}
    found = await _described(api, caller, list(since))
    return [{**entry, "since": since[entry["jobId"]]} for entry in found]


def _fleet(agents: Iterable[Json]) -> Json:
    connected = [agent for agent in agents if agent.get("connected")]
    total: dict[str, float] = {"agents": len(connected)}
    for member in ("vcpusMilli", "memoryMib", "gpus", "vcpusMilliUsed", "memoryMibUsed", "gpusUsed", "runs"):
        total[member] = sum(agent.get(member, 0) for agent in connected)
    return total


def _ended_in(minutes: Iterable[Mapping[str, int]]) -> int:
    return sum(minute.get("succeeded", 0) + minute.get("failed", 0) for minute in minutes)


def _needs(container: Json) -> dict[str, str]:
    """Return what a job reserves, whichever way it was said."""
    needs = {entry["type"]: entry["value"] for entry in container.get("resourceRequirements", ())}
    return {
        "VCPU": str(needs.get("VCPU", container.get("vcpus", ""))),
        "MEMORY": str(needs.get("MEMORY", container.get("memory", ""))),
        **({"GPU": needs["GPU"]} if "GPU" in needs else {}),
    }


def _resubmission(job: Json) -> str:
    """Return a SubmitJob request for the same once more, to be changed by hand."""
    container = job.get("container", {})
    overrides = {
        name: container[name] for name in ("command", "environment", "resourceRequirements") if container.get(name)
    }
    request = {
        "jobName": job["jobName"],
        "jobQueue": job["jobQueue"].rpartition("/")[2],
        "jobDefinition": job["jobDefinition"].rpartition("/")[2],
        "containerOverrides": overrides,
        **{
            name: job[name]
            for name in ("parameters", "retryStrategy", "timeout", "tags", "shareIdentifier", "propagateTags")
            if job.get(name)
        },
    }
    if "size" in job.get("arrayProperties", {}):
        request["arrayProperties"] = {"size": job["arrayProperties"]["size"]}
    return _pretty(request)


def _differences(old: Json, new: Json) -> list[tuple[str, str]]:
    before, after = (_pretty(_without_numbers(entry)).splitlines() for entry in (old, new))
    return list(shapes.differences(before, after))


def _without_numbers(definition: Json) -> Json:
    """Return a revision without what differs in any case."""
    return {name: value for name, value in definition.items() if name not in ("revision", "jobDefinitionArn", "status")}


def _pretty(value: Json) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _now_ms() -> int:
    return int(time.time() * 1000)


def _ms_of(text: str) -> int:
    """Return the time of an input of a form, in UTC."""
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise AwsError(400, "", f"{text!r} is no time such as 2026-01-31T12:00.") from None
