"""gexecd's privileged process, its starter and helpers: verify jobs, start and end tasks."""
