"""Files that are either whole or absent."""
