# /etc/profile.d/gexec.sh: the nodes that gexec runs on, in order.
export GEXEC_SVRS="grid000 cap001 cap002 cap003 cap004"
