"""Tables, plots, pictures and HTML pages, all made from stored runs."""
