"""Parts of the calibration study: streams of requests, and the page made from its results."""
