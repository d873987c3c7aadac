"""The parts of the page that people use in a browser."""
