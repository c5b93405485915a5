"""What people look at: tables, plots, pictures, pages, all made from stored runs."""
