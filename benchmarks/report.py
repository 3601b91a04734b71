"""A small report of results: a table, and plots where matplotlib is installed (`pip install batchyard[bench]`)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Line = Mapping[str, Any]

_SHOWN: Final = (
    *("of_echo", "of_durable_echo", "p50_ms", "p99_ms", "SubmitJob_growth", "DescribeJobs_growth", "ListJobs_growth"),
    *("start_until_first_end_s", "memory_after_start_mib", "more_mib", "lost", "of_docker_run", "used_of_slots"),
)


def write_report(folder: Path) -> Path:
    """Write a report of the newest line of each case beside the lines, and return where it is."""
    newest: dict[tuple[str, str], Line] = {}
    for text in (folder / "results.jsonl").read_text().splitlines():
        line = json.loads(text)
        newest[line["case"], line["product"]] = line
    lines = list(newest.values())
    parts = ["# Measured", "", _table(lines), ""]
    parts += [f"![{name}]({name})" for name in _plots(lines, folder)]
    report = folder / "report.md"
    report.write_text("\n".join(parts) + "\n")
    return report


def _table(lines: Sequence[Line]) -> str:
    rows = ["| case | product | n | a second | floor | ratio | CPU µs each | peak MiB | more |", "|---" * 9 + "|"]
    for line in lines:
        cpu = ", ".join(f"{role} {used}" for role, used in line["cpu_us_each"].items())
        peak = ", ".join(f"{role} {mib:g}" for role, mib in line["peak_mib"].items())
        more = ", ".join(f"{name} {line[name]}" for name in _SHOWN if name in line)
        rows.append(
            f"| {line['case']} | {line['product']} | {line['n']} | {line['per_s']} | {line['floor_per_s']} |"
            f" {line['ratio']} | {cpu} | {peak} | {more} |"
        )
    return "\n".join(rows)


def _plots(lines: Sequence[Line], folder: Path) -> list[str]:
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    from matplotlib import pyplot

    made = []
    for line in lines:
        if "all_ms" in line:
            figure, axes = pyplot.subplots(figsize=(6, 3.5))
            values = sorted(line["all_ms"])
            axes.plot(values, [(place + 1) / len(values) for place in range(len(values))])
            axes.set(xlabel="ms until a watching client sees the end", ylabel="share of jobs", ylim=(0, 1))
            made.append(_saved(figure, folder, "latency.png"))
        if "steps" in line:
            figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.5))
            waiting = [step["waiting"] for step in line["steps"]]
            for name in ("SubmitJob", "DescribeJobs", "ListJobs"):
                times.plot(waiting, [step[name]["p50_ms"] for step in line["steps"]], marker="o", label=name)
            times.set(xlabel="waiting jobs", ylabel="median ms a call", ylim=(0, None))
            times.legend()
            memory.plot(waiting, [step["memory_mib"] for step in line["steps"]], marker="o")
            memory.set(xlabel="waiting jobs", ylabel="MiB of the control plane", ylim=(0, None))
            made.append(_saved(figure, folder, "growth.png"))
    return made


def _saved(figure: Any, folder: Path, name: str) -> str:
    figure.tight_layout()
    figure.savefig(folder / name, dpi=120)
    return name
