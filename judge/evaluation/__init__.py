"""How often answers that can be checked are right: greedy, avg@n, pass@k, maj@k."""
