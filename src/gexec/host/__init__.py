"""Facts of this machine: configuration files, key files, names and addresses."""
