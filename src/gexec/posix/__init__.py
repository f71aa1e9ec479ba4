"""The operating system: processes, descriptors, sockets, clocks, logs."""
