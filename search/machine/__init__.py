"""The machine and process that a run takes place in: host, signals, crashes, errors of the system."""
