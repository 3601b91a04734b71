"""What is kept on disk: one interface for each service's data, one folder for each engine."""
