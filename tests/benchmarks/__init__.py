"""Tests of what the benchmarks decide: rows, ratios, verdicts, sections; that the figures are true is seen by running them."""
