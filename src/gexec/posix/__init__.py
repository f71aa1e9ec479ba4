"""This machine: processes, descriptors, sockets, clocks, logs."""
