#!/bin/sh
# Stands for the node program in tests of providers: says where it runs, then does what its parameters file says.
#   first line   a folder, where it leaves a file NODE.RESTARTS
#   second line  stay | succeed | fail
{ read -r folder; read -r act; } < "$1"
: > "$folder/${SLURMD_NODENAME:-host}.${SLURM_RESTART_COUNT:-0}"
case $act in
  stay) exec sleep 600 ;;
  succeed) exit 0 ;;
  fail) echo "there is no node" >&2; exit 3 ;;
esac
