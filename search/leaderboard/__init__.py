"""What is known of a task, method against method."""
