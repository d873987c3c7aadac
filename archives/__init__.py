"""Photos by the million where they lie: listed, looked at, kept as rows; and what is different in them."""
