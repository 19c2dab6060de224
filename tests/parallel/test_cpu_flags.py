"""The compiler flags for CPUs: known to this jaxlib, and never over what a user says."""

import os
import subprocess
import sys

from unitok_jax.parallel.cpu_flags import FLAGS, set_cpu_flags


def test_what_a_user_says_stays(monkeypatch):
    first, second = FLAGS
    monkeypatch.setenv("XLA_FLAGS", f"--{first}=individual_dot")
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == f"--{first}=individual_dot --{second}={FLAGS[second]}"
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"].count("--") == 2


def test_this_jaxlib_knows_them():
    flags = " ".join(f"--{name}={value}" for name, value in FLAGS.items())
    program = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    run = lambda flags: subprocess.run(  # noqa: E731
        [sys.executable, "-c", program], env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert run(flags).stdout.strip() == "2"
    assert run("--xla_cpu_no_such_flag=true").returncode != 0, "the test can fail"
