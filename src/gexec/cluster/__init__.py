"""A whole cluster of real daemons on this machine, for demo, tests and benchmarks."""
