"""Which settings to choose, how a choice is judged, and what is kept of it."""
