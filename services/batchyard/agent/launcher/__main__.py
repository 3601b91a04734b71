"""Start of the launcher: `python -I -S __main__.py JSON`, with the members of `detach.Options`."""

import os
import sys

if __name__ == "__main__":
    # Isolated mode leaves the program's own place out of the path. It goes to the end, where it can hide nothing.
    sys.path.append(os.path.abspath(__file__).rsplit(os.sep, 4)[0])

    from batchyard.agent.launcher.detach import main

    main(sys.argv)
