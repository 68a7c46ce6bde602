"""Files that are complete or absent, and files at places that a user named."""
