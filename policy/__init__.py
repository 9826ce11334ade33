"""Climbs the number: rewards made of named parts, GRPO, RLOO and PPO on TRL, answers before and after.

`rewards` is the table of rewards, `training` trains by `policy.algorithm` (`grpo`; `ppo` with its `critic` and
`advantages`), `audit` what is kept of every completion, `answers` the answers that the judge compares. `alarms` finds
signs of an ill run, `checkpoints` the state that becomes the cell; `best_of_n` and `export` are tools for a finished
one. One trained policy is a *cell* of the experiment; `stage` makes one.
"""
