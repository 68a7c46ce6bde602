"""Tables made from outcomes."""
