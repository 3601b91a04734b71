"""What an agent offers of its host."""

import pytest

from batchyard.agent.host import parse_capacity

HOST = (2000, 4096, 0)


@pytest.mark.parametrize(
    ("text", "capacity"),
    [
        ("", HOST),
        ("vcpus=64", (64_000, 4096, 0)),
        ("vcpus=0.5", (500, 4096, 0)),
        ("memory=256GiB", (2000, 262_144, 0)),
        ("memory=512MiB", (2000, 512, 0)),
        ("memory=512", (2000, 512, 0)),
        ("vcpus=64, memory=1TiB, gpus=2", (64_000, 1_048_576, 2)),
    ],
)
def test_a_capacity_says_what_it_says_and_leaves_the_rest_to_the_host(
    text: str, capacity: tuple[int, int, int]
) -> None:
    assert parse_capacity(text, HOST) == capacity


@pytest.mark.parametrize("text", ["vcpus", "vcpus=-1", "vcpus=many", "memory=1KB", "memory=GiB", "gpus=0.5", "disks=1"])
def test_what_makes_no_sense_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="capacity: "):
        parse_capacity(text, HOST)
