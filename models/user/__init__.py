"""A user's own code and objects: imported and called, known by their content, carried to workers."""
