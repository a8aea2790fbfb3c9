"""The evidence suite E2-E8: every metric of a batch in three columns, with target and outcome.

    measures   what the suite needs of a pool of models, as arrays
    catalogue  name, words, target, direction and limit of each number
    rows       the numbers of one column against retrained models
    judging    met, not met, or no power: what a row may be read as
    records    one line for each record, by salted hash; strata apart
    sequence   drift over the batches since the last exact model
    suite      all of it as plain JSON

The suite describes; the verdict follows from the conditions of ``governance.forgetting``.
"""
