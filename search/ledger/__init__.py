"""Every outcome ever measured, in a database."""
