"""Climbs the number: rewards made of named parts, GRPO through TRL, answers before and after.

`rewards` is the table of rewards, `grpo` the training, `audit` what is kept of every completion, `answers` the answers
that the judge compares. One trained policy is a *cell* of the experiment; `stage` makes one.
"""
