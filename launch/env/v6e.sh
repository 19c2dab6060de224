# shellcheck shell=bash
# Flags for TPU v6e: those of all TPUs, and more. Read by launch/worker.sh.
# shellcheck source=launch/env/tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

# Larger tiles: v6e has 128 MiB of VMEM. Source: the same file,
# DENSE_VMEM_LIMIT_FLAG; torchax's Llama recipe for v6e-8 sets it too.
LIBTPU_INIT_ARGS+=" --xla_tpu_scoped_vmem_limit_kib=98304"
export LIBTPU_INIT_ARGS
