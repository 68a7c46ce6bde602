"""Weights in files: read safely whatever form they have, written whole."""
