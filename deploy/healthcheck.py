"""Asks the service in this container whether it can do its work; exits with 0 if so, else with 1."""

import json
import os
import re
import ssl
import sys
import urllib.request
from pathlib import Path


def url() -> str:
    """Return where it answers: an agent at its monitoring port, `up` at the address in its data folder."""
    port = os.environ.get("BATCHYARD_MONITORING_PORT")
    if port:
        return f"http://127.0.0.1:{port}"
    listening = json.loads(Path(os.environ["BATCHYARD_DATA_DIR"], "endpoint.json").read_text(encoding="utf-8"))["http"]
    return re.sub(r"//(0\.0\.0\.0|\[::\])", "//127.0.0.1", str(listening))


def main() -> None:
    """Ask once."""
    # Its certificate is for the names under which others call it.
    unverified = ssl._create_unverified_context()  # noqa: SLF001
    try:
        with urllib.request.urlopen(f"{url()}/readyz", timeout=8, context=unverified) as answer:
            print(answer.read().decode())
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
