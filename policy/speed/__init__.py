"""How fast an update is, beside TRL's padded path on the same rollouts."""
