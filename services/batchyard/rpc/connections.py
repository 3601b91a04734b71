"""How many connections a server may have, so that files are left for all else that its process does."""

import resource


def connections_within(count_max: int) -> int:
    """Return how many connections a server takes at a time: so many, or one for every second file at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return count_max if files == resource.RLIM_INFINITY else min(count_max, files // 2)
