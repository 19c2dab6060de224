# shellcheck shell=bash
# Flags for TPU v4: those of all TPUs. Read by launch/worker.sh.
# shellcheck source=launch/env/tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"
