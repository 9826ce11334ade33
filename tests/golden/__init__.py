"""Golden trajectories: numbers of the small runs as text, and what writes them."""
