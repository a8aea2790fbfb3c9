"""The readiness study: what Ready2Unlearn buys, what it costs, when not to use it."""
