"""The ops against their rivals: `pytest benchmarks/ --benchmark-only`, or `make bench` for interleaved ratios and the table."""
