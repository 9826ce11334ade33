"""Corrects the number: score units, reasoning phrases (RPR), compensation of false negatives, and what it all does.

`phrase_set` reads the lists in `phrases/`, `rpr` measures a text against one, `compensation` holds the rules as pure
functions, `units` fits maps from logits to scores for a rung, `calibrator` binds a rung's units, a list and a rule into
the small JSON that every later room applies, `report` says what the rule does to ranking, false negatives and spread.
No torch in this room.
"""
