"""What the console draws."""

import pytest

from batchyard.gateway.console.shapes import child_grid, differences, duration, graph_of, minute_bars, share, time_line

MINUTE = 60_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (900, "900 ms"),
        (1500, "1.5 s"),
        (61_000, "1 min 1 s"),
        (3_600_000, "1 h 0 min"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_times_have_two_units_at_most(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_bars_are_scaled_to_the_highest_and_failures_stand_on_top() -> None:
    first, last = minute_bars([{"succeeded": 1, "failed": 1}, {"succeeded": 4}], 60)
    assert (first.succeeded, first.failed) == (15, 15)
    assert (last.succeeded, last.failed) == (60, 0)
    assert first.title == "1 min ago: 1 succeeded, 1 failed"


def test_of_nothing_no_part_is_taken() -> None:
    assert share(3, 0) == 0
    assert share(30, 10) == 100


def test_a_job_that_was_tried_twice_waited_twice() -> None:
    attempts = [
        {"startedAt": 10 * MINUTE, "stoppedAt": 20 * MINUTE},
        {"startedAt": 30 * MINUTE, "stoppedAt": 40 * MINUTE},
    ]
    job = {
        "createdAt": 0,
        "startedAt": 30 * MINUTE,
        "stoppedAt": 40 * MINUTE,
        "status": "SUCCEEDED",
        "attempts": attempts,
    }
    spans = time_line(job, 99 * MINUTE)
    assert [(span.kind, span.begin, span.width) for span in spans] == [
        ("waiting", 0, 25),
        ("failed", 25, 25),
        ("waiting", 50, 25),
        ("succeeded", 75, 25),
    ]
    assert spans[-1].label == "attempt 2"


def test_a_running_job_runs_until_now_and_a_waiting_one_waits_until_now() -> None:
    running = time_line({"createdAt": 0, "startedAt": MINUTE, "status": "RUNNING", "attempts": []}, 4 * MINUTE)
    assert [(span.kind, span.width) for span in running] == [("waiting", 25), ("running", 75)]
    waiting = time_line({"createdAt": 0, "status": "RUNNABLE", "attempts": []}, MINUTE)
    assert [(span.kind, span.lasted) for span in waiting] == [("waiting", "1 min 0 s")]


def test_a_job_that_ended_without_running_has_no_time_line() -> None:
    assert time_line({"createdAt": 0, "status": "FAILED", "attempts": []}, MINUTE) == []


def test_children_of_one_status_beside_each_other_are_one_stroke() -> None:
    grid = child_grid(bytes([6] * 100 + [6, 6, 7]))
    assert (grid.columns, grid.width, grid.height) == (100, 1000, 20)
    assert grid.paths == {
        "SUCCEEDED": "M0 0h1000v10h-1000zM0 10h20v10h-20z",
        "FAILED": "M20 10h10v10h-10z",
    }


def test_a_graph_shows_the_first_of_many_neighbours_and_counts_the_others() -> None:
    def a_job(name: str) -> dict[str, str]:
        return {"jobId": name, "jobName": name, "status": "PENDING"}

    graph = graph_of(a_job("this"), [a_job("before")], [a_job(str(number)) for number in range(20)])
    assert [node.name for node in graph.nodes if node.is_this] == ["this"]
    assert len(graph.edges) == 1 + 12
    assert (graph.hidden_before, graph.hidden_after) == (0, 8)
    assert all(0 <= node.y <= graph.height and node.x < graph.width for node in graph.nodes)


def test_differences_are_lines_that_went_and_lines_that_came() -> None:
    found = list(differences(["a", "b", "c", "d"], ["a", "x", "c", "d", "e"]))
    assert found == [("same", "a"), ("removed", "b"), ("added", "x"), ("same", "c"), ("same", "d"), ("added", "e")]


@pytest.mark.parametrize("lines", [2000, 10_000])
def test_texts_of_many_lines_that_are_alike_are_compared_in_no_time(lines: int) -> None:
    before, after = ([f'"{kind}{number}": 1,' for number in range(lines)] for kind in ("variable", "constant"))
    found = list(differences(before, after))
    assert [kind for kind, _ in found] == ["removed"] * lines + ["added"] * lines
