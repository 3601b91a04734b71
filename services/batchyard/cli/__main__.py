"""`python -m batchyard.cli`: how `up` starts its agent, whichever way the package was installed."""

from batchyard.cli.main import main

if __name__ == "__main__":
    main(prog_name="batchyard")
