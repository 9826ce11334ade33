"""Looks with other eyes: pairs of answers, judged in both orders by gold or by a model behind an endpoint.

`answers` reads what the policy room wrote, `prompting` turns a pair into a request, `endpoint` asks it once and for
all with `store`, `gold_endpoint` speaks for a world's gold, `verdicts` reads replies and combines orders, `statistics`
puts intervals on them, `judges` is the table of judges and `stage` writes `runs/<name>/judge/<cell>/`.

No torch here: answers can be judged on any laptop.
"""
