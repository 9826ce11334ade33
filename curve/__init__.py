"""The whole experiment: expands the sweep into cells, runs them side by side, gathers the points, draws the curve.

`cells` is the sweep, `workers` runs it, `points` reads the results, `figure` and `report` show them, `cli` is the
command line.
"""
