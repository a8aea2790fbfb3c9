"""The only surface that dags and the command line call: JSON in, JSON out, twice is safe."""
