"""`unitok tokenize` by two processes with two devices each writes what one process with one device writes."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from decode_run import save

from unitok_jax.data.records import shard_name

RUN = Path(__file__).with_name("cli_run.py")
SHARDS = 3


def start(devices: int, workdir: Path, out: Path, **env: str) -> subprocess.Popen:
    source = ["--source", "digits", "split=held_out"]
    words = ["tokenize", "--workdir", str(workdir), "--out", str(out), "--shards", str(SHARDS), "--drop-pictures"]
    return subprocess.Popen(
        [sys.executable, str(RUN), str(devices), *words, *source],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def counts(process: subprocess.Popen) -> Counter[str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    lines = [line.split("\t") for line in out.splitlines() if "\t" in line]  # Gloo says something, too
    return Counter({name: int(count) for name, count in lines})


@pytest.mark.several_processes
def test_two_processes_write_what_one_writes(tmp_path, free_port):
    run, alone, shared = (tmp_path / name for name in ("run", "alone", "shared"))
    save("configs/demo/tokenizer.py", run)
    joined = {"UNITOK_COORDINATOR": f"localhost:{free_port}", "UNITOK_PROCESSES": "2"}
    both = [start(2, run, shared, UNITOK_PROCESS=str(i), **joined) for i in range(2)]
    told = [counts(process) for process in both]
    assert min(each["written"] for each in told) > 0, "each had its share"
    assert sum(told, Counter()) == counts(start(1, run, alone))
    for shard in range(SHARDS):
        name = shard_name(shard, SHARDS)
        assert (shared / name).read_bytes() == (alone / name).read_bytes()
