"""Throughput of a whole installation, each figure beside the floor of the machine, measured in the same run."""
