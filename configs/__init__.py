"""How a run is described (YAML experiments in this folder) and where it lies on disk.

`loader` reads an experiment strictly, `runfolder` keeps finished stages with their hashes, `records` writes
JSON and JSONL, `keyed` makes randomness that belongs to a sample rather than to a position in a batch,
`terminal` prints tables and progress, `command` turns a function into a command that shows errors as one line.

This room imports no other room.
"""
