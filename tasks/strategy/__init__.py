"""How answers are reached, by code or by language, and what changes when a policy is trained or prompted otherwise.

`classifier` names an answer's strategy; `transitions` holds frequencies, transitions and partial contributions;
`report` is the tool, `figure` its flow figure.
"""
