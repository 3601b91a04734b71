"""The command line: reads flags, builds the services, serves them until a signal. Decides nothing about jobs."""
