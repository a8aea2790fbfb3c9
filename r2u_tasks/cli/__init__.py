"""Command line ``r2u``, a module for each group of commands."""
