# shellcheck shell=bash
# Flags for NVIDIA GPUs. Names are checked against jaxlib by tests/launch/test_env.py.
# Whether a flag helps a recipe is to be measured on the machine: none of this was timed by this project.

# Collectives run while something else is computed. Source: JAX's GPU performance tips; NVIDIA's JAX images set it.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"
# Small collectives are joined: FSDP sends one layer at a time. Source: NVIDIA JAX-Toolbox, "GPU performance".
XLA_FLAGS+=" --xla_gpu_all_gather_combine_threshold_bytes=1073741824"
XLA_FLAGS+=" --xla_gpu_reduce_scatter_combine_threshold_bytes=33554432"
XLA_FLAGS+=" --xla_gpu_all_reduce_combine_threshold_bytes=1073741824"
export XLA_FLAGS
# The share of GPU memory that JAX takes at once (its own default is 0.75). Source: the same page, 0.9 or 0.8.
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.9
