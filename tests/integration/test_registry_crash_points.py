"""The registry dies at every sync of creations, updates and deletions: what was acknowledged is there, and no half."""

import asyncio
from pathlib import Path

import pytest

from support.control_plane import a_submission, control_plane
from support.crashes import NEEDS_STRACE, SYNCS, forked, sweep, traced, was_killed
from support.registry_scenario import OPERATIONS, Resources, child, operate, settled

pytestmark = [pytest.mark.timeout(600), NEEDS_STRACE]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Resources]:
    """What there is after each number of operations."""
    folder = tmp_path_factory.mktemp("undisturbed")

    async def play() -> list[Resources]:
        async with control_plane(folder) as plane:
            found = [await settled(plane)]
            for number in range(len(OPERATIONS)):
                await operate(plane, number)
                found.append(await settled(plane))
        return found

    return asyncio.run(play())


def play_until_killed(folder: Path, point: int) -> tuple[int, bool]:
    """Play the scenario in a child that is killed at a sync; return how much was acknowledged, and if it was killed."""
    acknowledged = 0
    process, pipe = forked(child, folder)
    with pipe:
        assert process.pid is not None
        with traced(process.pid, SYNCS, f"signal=SIGKILL:when={point}"):
            pipe.send("go")
            try:
                while (message := pipe.recv()) != ("over",):
                    acknowledged = message[1]
            except EOFError:
                pass
            return acknowledged, was_killed(process)


async def check(folder: Path, acknowledged: int, expected: list[Resources]) -> None:
    async with control_plane(folder) as plane:
        found = await settled(plane)
        assert found in expected[acknowledged : acknowledged + 2], f"{acknowledged} operations were acknowledged"
        # The one that was under way either took place or can be carried out now.
        for number in range(expected.index(found, acknowledged), len(OPERATIONS)):
            await operate(plane, number)
            assert await settled(plane) == expected[number + 1]
        await plane.jobs.SubmitJob(a_submission("job", jobQueue="queue", jobDefinition="job"))


def test_what_was_acknowledged_is_there_wherever_the_registry_dies(tmp_path: Path, expected: list[Resources]) -> None:
    def run(point: int) -> bool:
        folder = tmp_path / str(point)
        folder.mkdir()
        acknowledged, is_killed = play_until_killed(folder, point)
        asyncio.run(check(folder, acknowledged, expected))
        return not is_killed

    assert sweep(run) > len(OPERATIONS)
