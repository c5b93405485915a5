"""Tables and records made from runs, for people and for programs."""
