"""What is compared, and how it is recorded.

`evaluate` opens what it is given and has it measured (`measure`): an `evaluator` gathers the statistics of both sides
(`gatherer`), metrics compare them (`compare`), and a `result` records them.
"""
