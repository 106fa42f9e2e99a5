"""What a network costs and what it has learned: pure functions that take data and a path."""
