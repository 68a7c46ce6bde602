"""The machine a run takes place on."""
