"""Images and labels: where they come from, what their numbers mean, and how batches are cut."""
