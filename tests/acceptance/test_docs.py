"""The documentation: it can be built, its commands exist, and the first page does what it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import pytest

from batchyard.cli.main import main
from batchyard.cli.services import logs as serve_logs
from support.installation import free_ports

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK: Final = re.compile(r"^( *)```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
BIN: Final = Path(sys.executable).parent


def shell_blocks(page: Path) -> list[str]:
    """Return what a page tells to type, in its order."""
    return [block for _, block in BLOCK.findall(page.read_text())]


def commands_of(page: Path) -> list[list[str]]:
    """Return the calls of `batchyard` in a page, as words."""
    calls = []
    for block in shell_blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            for call in re.split(r"[;|&]+", re.sub(r"\s#.*", "", line)):
                words = (
                    shlex.split(call.replace("$(", " ").replace(")", " ")) if call.count("'") % 2 == 0 else call.split()
                )
                if "batchyard" in words:
                    calls.append(words[words.index("batchyard") + 1 :])
    return calls


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flag_in_the_documentation_exists(page: Path) -> None:
    context = click.Context(main)
    for words in commands_of(page):
        if not words or words[0].startswith("-"):
            continue
        command = main.get_command(context, words[0])
        assert command is not None, f"{page.name}: batchyard {words[0]}"
        own = words[1 : words.index("--")] if "--" in words else words[1:]
        if isinstance(command, click.Group) and own:
            found = command.get_command(context, own[0])
            assert found is not None, f"{page.name}: batchyard {words[0]} {own[0]}"
            command = found
        flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        if command.name == "logs":
            # Without a job it is the service of that name.
            flags |= {flag for parameter in serve_logs.params for flag in parameter.opts}
        used = {word.partition("=")[0] for word in own if word.startswith("--")}
        assert used <= flags | {"--help"}, f"{page.name}: batchyard {' '.join(words)}"


def test_the_pages_are_a_site_without_broken_links(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "site" / "commands.html").read_text()
    assert "BATCHYARD_DATA_DIR" in commands


def test_the_first_page_does_what_it_says(tmp_path: Path) -> None:
    port, grpc_port = free_ports(2)
    script = "\n".join(shell_blocks(ROOT / "docs" / "index.md"))
    up = (
        f"batchyard up --data-dir state --port {port} --grpc-port {grpc_port} --runtime process --stop-jobs &\n"
        "up=$!\ntrap 'kill $up; wait $up' EXIT\n"
        "for _ in $(seq 600); do [ -e state/endpoint.json ] && break; sleep 0.1; done\n"
    )
    for words, instead in (
        ("pip install . ", "true "),
        ("batchyard up --data-dir state &", up),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:{port}"),
    ):
        assert words in script
        script = script.replace(words, instead)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "AWS_CONFIG_FILE": "/dev/null", "AWS_PAGER": ""},
    )
    assert done.returncode in (0, 128 + signal.SIGTERM), done.stderr
    assert re.search(r"hello from [0-9a-f-]{36}", done.stdout)
    assert '"jobName": "first"' in done.stdout
    assert "batchyard ready" in done.stdout
