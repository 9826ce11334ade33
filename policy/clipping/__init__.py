"""Does clipping bias a policy whose rewards are coin flips? Exact, simulated, drawn."""
