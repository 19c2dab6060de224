# shellcheck shell=bash
# Flags for all TPUs; the file of each version reads it. Names are checked against libtpu by tests/launch/test_env.py.
# Whether a flag helps a recipe is to be measured on the machine: none of this was timed by this project.

# Collectives in the background, fused with what is computed meanwhile.
# Source: MaxText, benchmarks/xla_flags_library.py, CF_FOR_ALL_GATHER ("enabled by default but let's make sure").
LIBTPU_INIT_ARGS="${LIBTPU_INIT_ARGS:-} --xla_tpu_enable_async_collective_fusion=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion_multiple_steps=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_overlap_compute_collective_tc=true"
LIBTPU_INIT_ARGS+=" --xla_enable_async_all_gather=true"
# Gradient sums between slices overlap with the next layers. Source: the same file, DATA_PARALLEL_OVERLAP.
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_data_parallel_all_reduce_opt=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_data_parallel_opt_different_sized_ops=true"
export LIBTPU_INIT_ARGS
