"""Metrics of forgetting: plain functions on numpy arrays, each with its target and its null.

    estimates       a number with interval and sample size, or the reason why there is none
    intervals       Clopper-Pearson, t, bootstrap over whole models; Holm
    likelihood      per-record Gaussian likelihood ratio, and its sum over the batch
    epsilon         privacy-style lower bounds per record, and the score F of NeurIPS 2023
    klom            KL of binned margins, with its null
    divergence      Jensen-Shannon, ZRF, activation distance, agreement, Kolmogorov-Smirnov
    membership      offline LiRA, RMIA; m-entropy, threshold and SVC attacks as baselines
    outcomes        UA, RA, TA, MIA, Avg. Gap, ToW, calibration
    recovery        relearning (AIN), rebound, linear probe
    overforgetting  records pushed beyond where retrained models have them

Rules. The target of every metric is a model retrained without the records, never an absolute zero.
A value that is not finite, an empty array or a wrong shape is a ``DataError``. Too few models give
an ``Estimate`` without a value and with the reason; no function leaves anything out in silence.
Random numbers come from a fixed seed, so the same arrays give the same numbers.

Margins are phi = log(p / (1 - p)) in nats, where p is the probability of the label, or for a
sequence the geometric mean of the probabilities of its tokens. A pool of N models gives ``[N, n]``
margins of n records. Source of each formula: in the docstring of its function.
"""
