"""What unios costs and how fast it recovers, measured on the machine at hand: `python -m benchmarks NAME [--peers] [--json]`.

Nothing here asserts a time: a figure over its limit is reported as MISSED. The exit code stays 0, but for `calls`, `tasks` and `objects`, where it is 1 then.
RESULTS.md is written by the program.
"""
