"""Whether the gateway is alive, and whether all that it passes requests to can serve."""

from typing import Final

import anyio
import grpc.aio
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.gateway.asgi import Answer
from batchyard.gateway.upstreams import Upstreams

CHECK_DEADLINE_S: Final = 2.0

_JSON: Final = "application/json"


def alive_answer() -> Answer:
    """Return the answer of a process that runs."""
    return Answer(200, msgspec.json.encode({"status": "alive"}), _JSON)


async def readiness_answer(upstreams: Upstreams) -> Answer:
    """Ask every upstream for its health; return 200 when all serve, else 503, and how each of them stands."""
    states: dict[str, str] = {}

    async def check(name: str, channel: grpc.aio.Channel, service: str) -> None:
        states[name] = await _state_of(channel, service)

    async with anyio.create_task_group() as tasks:
        for name, (channel, service) in upstreams.probes().items():
            tasks.start_soon(check, name, channel, service)
    ready = all(state == "SERVING" for state in states.values())
    body = {"status": "ready" if ready else "not ready", "upstreams": dict(sorted(states.items()))}
    return Answer(200 if ready else 503, msgspec.json.encode(body), _JSON)


async def _state_of(channel: grpc.aio.Channel, service: str) -> str:
    stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
    try:
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=CHECK_DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
