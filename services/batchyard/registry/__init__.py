"""The registry: what may run where. Compute environments, job queues and job definitions; it keeps no jobs."""
