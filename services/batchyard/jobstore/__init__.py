"""The system of record: what is to run, and how it went."""
