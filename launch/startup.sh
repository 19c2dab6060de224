#!/usr/bin/env bash
# Sets a TPU worker up: Python, the code, a virtual environment with the TPU extra. Running it again is harmless.
#
#   startup.sh gs://BUCKET/DIR/code.tar.gz     over ssh (launch/tpu.sh setup)
#   without arguments                          as a startup script: everything comes from the instance's metadata
#                                              (unitok-code, unitok-env, unitok-command; launch/tpu.sh create --startup)
set -euo pipefail

METADATA=${UNITOK_METADATA:-http://metadata.google.internal/computeMetadata/v1/instance/attributes}
attribute() { curl -sf -H 'Metadata-Flavor: Google' "$METADATA/$1" || true; }

export HOME=${HOME:-/root}
ROOT=${UNITOK_HOME:-$HOME/unitok}
archive=${1:-$(attribute unitok-code)}
if [[ -z $archive ]]; then
  echo "startup.sh: where is the code? Give gs://.../code.tar.gz" >&2
  exit 2
fi

python=""
find_python() {
  for python in python3.13 python3.12 python3.11; do
    if command -v "$python" >/dev/null && "$python" -c 'import ensurepip, venv' 2>/dev/null; then return 0; fi
  done
  return 1
}
if ! find_python; then
  sudo apt-get -qq update
  sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3.11 python3.11-venv
  find_python || { echo "startup.sh: no Python 3.11 or newer to be had" >&2; exit 1; }
fi

mkdir -p "$ROOT/code.new"
gcloud storage cat "$archive" | tar -xz -C "$ROOT/code.new"
rm -rf "$ROOT/code"
mv "$ROOT/code.new" "$ROOT/code"
if [[ ! -x $ROOT/venv/bin/python ]]; then "$python" -m venv "$ROOT/venv"; fi
"$ROOT/venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$ROOT/code[tpu]"

if (($# == 0)); then
  words=$(attribute unitok-command)
  if [[ -n $words ]]; then
    flags=$(attribute unitok-env)
    eval "set -- $words" # the words were quoted by the shell that wrote them
    bash "$ROOT/code/launch/worker.sh" start "${flags:-none}" "$@"
  fi
fi
