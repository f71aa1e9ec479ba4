"""The pure core: frames, job, tree, per-job machines. No I/O, no clock, no randomness."""
