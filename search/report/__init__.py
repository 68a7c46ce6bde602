"""What a run leaves to be looked at: report, picture, tables."""
