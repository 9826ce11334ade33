"""Puts a number on an answer: Bradley-Terry reward models with LoRA or in full, kept at a ladder of accuracies.

`training` wraps TRL's RewardTrainer, `ladder` chooses and measures the rungs, `rung` is the folder that other rooms
load, `scorer` turns answers into logits, `units` turns logits into scores.
"""
