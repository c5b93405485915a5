"""HTML: one page of some runs, the same from a server, and a site of many."""
