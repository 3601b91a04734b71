"""The launcher: the small process that starts a host's jobs, reaps them, and outlives its agent.

Only the standard library is imported here, and of it only what is cheap (no dataclasses, typing or logging): the
launcher is a process of about 10 MB that starts within milliseconds. The ledger and the journal serve the docker
runtime too, which keeps the same rules without a launcher; its containers have a guard, a process of the same kind.
"""
