"""What layers read and what their outputs matter, measured on a few calibration batches of the dense network."""
