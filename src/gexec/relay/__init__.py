"""gexecd's unprivileged process: links to other nodes, jobs, output."""
