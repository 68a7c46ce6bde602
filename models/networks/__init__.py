"""Networks by name: ours, those of torchvision, and a user's own."""
