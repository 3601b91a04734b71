"""What the gateway counts."""

from collections.abc import Callable
from functools import cache
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, Histogram, generate_latest

from batchyard.gateway.asgi import Answer

_REQUEST_SECONDS: Final = Histogram(
    "batchyard_gateway_request_duration_seconds",
    "From the head of an AWS request to its answer, by operation and HTTP status.",
    ("operation", "status"),
)


def record_request(operation: str, status: int, seconds: float) -> None:
    """Count an answered request."""
    _observing(operation, status)(seconds)


@cache
def _observing(operation: str, status: int) -> Callable[[float], None]:
    return _REQUEST_SECONDS.labels(operation, str(status)).observe


def metrics_answer() -> Answer:
    """Return all metrics of the process, as Prometheus reads them."""
    return Answer(200, generate_latest(), CONTENT_TYPE_LATEST)
