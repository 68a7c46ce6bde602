"""From a configuration to outcomes: prepared, running, finished."""
