"""What is asked and how it is graded: offline worlds with known gold, preference sets, mathematics sets.

`records` holds the prompt, the pair and the grade that other rooms read; `table` is the list of tasks; `stage` builds
a task on disk. A task is one file and one row in `table`.
"""
