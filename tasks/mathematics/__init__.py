"""Mathematics problems with a reference answer: files, prompts, the answer in a completion, and whether it is right.

`task` is the task; `problems` reads files; `prompting` words the question; `extraction` finds an answer; `equality`
compares it by math-verify, `workers` does so in processes that can be killed; `second_checker` is the other opinion and
`audit_answers` the tool that sets the two against each other.
"""
