"""What jobs print: taken from agents, kept in files, read as CloudWatch Logs shows it.

A log is bytes; an event is a line of it (`lines`), stamped with when its last byte came; a page is a run of events
(`pages`). Pages are found from either end without reading the log through.
"""
