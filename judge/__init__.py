"""Looks with other eyes: pairs of answers, judged in both orders by gold or by a model behind an endpoint.

`answers` reads what the policy room wrote, `prompting` turns a pair into a text, `asking` a question into requests and
replies into verdicts. `endpoint` asks each request once and for all with `store`, at the pace of `rate_limit` and under
the cap of `budget`, or `batch_api` hands them in. `gold_endpoint` speaks for a world's gold, `rung_judge` for a reward
model, `people` for raters. `verdicts` reads replies and combines orders, `statistics` puts intervals on them, `judges`
is the table of judges, `stage` writes `runs/<name>/judge/<cell>/` and `answer_files` judges any two files.

No torch here, but for a reward model that judges: answers can be judged on any laptop.
"""
