"""HTML: one page about some runs (as a file or from a server), and a site of many."""
