#!/usr/bin/env bash
# On a worker: starts a command detached, and tells how it goes. launch/tpu.sh calls it over ssh.
#
#   worker.sh start ENV COMMAND...   ENV is a file of launch/env without .sh, or none
#   worker.sh state                  none, running, stopped (by `stop`), gone (killed without a word), or the exit code
#   worker.sh log [follow]
#   worker.sh stop                   SIGTERM: the run saves and ends
#
# Log, process id and exit code lie in $UNITOK_HOME (default: ~/unitok).
set -euo pipefail

CODE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=${UNITOK_HOME:-$HOME/unitok}
mkdir -p "$ROOT"

alive() { [[ -s $ROOT/pid ]] && kill -0 "$(<"$ROOT/pid")" 2>/dev/null; }

state() {
  if [[ -s $ROOT/exit ]]; then if [[ -e $ROOT/stopped ]]; then echo stopped; else cat "$ROOT/exit"; fi
  elif alive; then echo running
  elif [[ -s $ROOT/pid ]]; then echo gone
  else echo none; fi
}

start() {
  local flags=$1
  shift
  if alive; then echo "worker.sh: a run is there already ($(<"$ROOT/pid")); stop it first" >&2; exit 2; fi
  rm -f "$ROOT/exit" "$ROOT/pid" "$ROOT/stopped"
  if [[ $flags != none ]]; then
    # shellcheck source=/dev/null
    source "$CODE/launch/env/$flags.sh"
  fi
  export PATH="$ROOT/venv/bin:$PATH" UNITOK_COORDINATOR="${UNITOK_COORDINATOR-auto}"
  cd "$CODE"
  # A session of its own, so that the end of the ssh connection does not end it.
  setsid "$CODE/launch/worker.sh" mind "$@" >>"$ROOT/log" 2>&1 </dev/null &
  echo $! >"$ROOT/pid"
}

# Runs a command, passes SIGTERM on to it, and writes down how it ended.
mind() {
  local child code told
  "$@" &
  child=$!
  trap 'told=yes; kill -TERM "$child" 2>/dev/null || true' TERM
  while true; do
    told=no code=0
    wait "$child" || code=$?
    if [[ $told == no ]]; then break; fi # otherwise a signal woke us, and the command goes on
  done
  echo "$code" >"$ROOT/exit.tmp"
  mv "$ROOT/exit.tmp" "$ROOT/exit"
}

case ${1:-} in
  start)
    (($# > 2)) || { echo "worker.sh start ENV COMMAND..." >&2; exit 2; }
    shift
    start "$@"
    ;;
  mind)
    shift
    mind "$@"
    ;;
  state) echo "$(hostname) $(state)" ;;
  log) if [[ ${2:-} == follow ]]; then tail -n 100 -F "$ROOT/log"; else tail -n 200 "$ROOT/log"; fi ;;
  stop)
    touch "$ROOT/stopped"
    if alive; then kill -TERM "$(<"$ROOT/pid")"; fi
    ;;
  *)
    echo "worker.sh start|state|log|stop" >&2
    exit 2
    ;;
esac
