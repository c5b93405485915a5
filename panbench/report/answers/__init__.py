"""Tables and records: what the numbers of runs say, for people and for programs."""
