"""A few steps of every stage of a recipe on random weights of its shape: seconds and memory before the long run."""
