"""From a budget to an allocation that keeps to it: targets, constraints, projection, minimisation."""
