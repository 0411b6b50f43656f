"""What unios costs and how fast it recovers, measured on the machine at hand: `python -m benchmarks boot|spawn|failover [--peers] [--json]`.

Nothing here asserts a time: a figure over its limit is reported as MISSED and the exit code stays 0. RESULTS.md is written by the program.
"""
