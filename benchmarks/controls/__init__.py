"""How often does the gate accept what it must not, and refuse what it must accept?

    cases    data sets, requests and the pools of models that all repeats draw from
    repeats  one repeat: pools, a candidate of each control, the verdict of the gate
    runner   trains what is missing, then appends one row for each repeat and control
    tables   rates with Clopper-Pearson intervals, docs/results/controls.md

Everything is judged from margins, so a model is trained once, measured, and only its margins are
kept (``build/controls``).
"""
