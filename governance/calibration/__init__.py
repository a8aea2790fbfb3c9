"""Calibration: what deletion requests say about the risk policy.

``observations`` counts, before each erasure, which risk groups and strata the asked records were
in; ``measures`` holds that against the classification; ``drift`` watches the rates; ``proposal``
turns a deviation into a changed policy that a person may accept. Counts only, no person.
"""
