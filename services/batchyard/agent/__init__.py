"""Runs the jobs of one host: a session with the scheduler, runtimes, and the launcher that outlives the agent."""
