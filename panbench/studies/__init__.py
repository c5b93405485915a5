"""Studies: experiments around the core, a folder each. None imports another, and the core imports none by name."""
