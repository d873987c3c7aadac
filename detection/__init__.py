"""A photograph becomes boxes with names and scores."""
