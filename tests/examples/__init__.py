"""The examples and the benchmarks."""
