"""What is compressed: networks, checkpoints, and the data they are judged on. Knows nothing of compression."""
