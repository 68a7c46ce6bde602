"""A user's own code and objects: imported, called, carried to workers, fingerprinted."""
