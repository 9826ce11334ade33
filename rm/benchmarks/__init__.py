"""A rung on published benchmarks, and the speed of training and scoring beside TRL's."""
