"""What a job is and how it lives: names, states, errors. Pure: no clock, socket, database or task."""
