"""Which cells there are, and how they are run: here, on Ray, or as commands for SLURM."""
