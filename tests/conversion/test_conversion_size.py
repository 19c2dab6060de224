"""A checkpoint of gigabytes is imported and exported within the memory of a shard, a layer and one gigabyte.

``UNITOK_SIZE_GB`` sets its size (default 5); three times as much disk is used and freed again.
"""

import json
import os
import subprocess
import sys

import pytest

GIGABYTES = float(os.environ.get("UNITOK_SIZE_GB", "5"))
SHARD = 500_000_000

WORK = r"""
import gc, json, shutil, sys, threading, time
from pathlib import Path

import ml_dtypes, numpy as np

from unitok_jax.conversion.exporting import export_checkpoint
from unitok_jax.conversion.importing import import_checkpoints
from unitok_jax.weights.safetensors_files import save_folder

home, size, shard = Path(sys.argv[1]), float(sys.argv[2]) * 1e9, int(sys.argv[3])
WIDTH, FFN, HEADS, VOCAB = 2048, 8192, 16, 32768


class Synthetic:
    '''A Lumina-mGPT of `layers` layers, its numbers cut from one random buffer.'''

    def __init__(self, layers):
        rng = np.random.default_rng(0)
        self.bits = rng.integers(0, 2**14, 2 * VOCAB * WIDTH, np.uint16).view(ml_dtypes.bfloat16)
        self.shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH), "lm_head.weight": (VOCAB, WIDTH)}
        self.shapes["model.norm.weight"] = (WIDTH,)
        for i in range(layers):
            at = f"model.layers.{i}."
            self.shapes |= {f"{at}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
            self.shapes |= {f"{at}self_attn.{n}_proj.weight": (WIDTH, WIDTH) for n in "qkvo"}
            for n in "qk":
                self.shapes |= {f"{at}self_attn.{n}_norm.{x}": (1, WIDTH // HEADS) for x in ("weight", "bias")}
            self.shapes |= {f"{at}mlp.{n}_proj.weight": (FFN, WIDTH) for n in ("gate", "up")}
            self.shapes[f"{at}mlp.down_proj.weight"] = (WIDTH, FFN)

    def keys(self):
        return self.shapes.keys()

    def shape(self, key):
        return self.shapes[key]

    def dtype(self, key):
        return np.dtype(ml_dtypes.bfloat16)

    def read(self, key):
        start = hash(key) % (VOCAB * WIDTH)
        return self.bits[start : start + int(np.prod(self.shape(key)))].reshape(self.shape(key))


def memory(field):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[field].split()[0]) * 1024


def peak_of(work, *args, **options):
    '''Bytes that the process holds at most while it works, beyond what it held before.'''
    gc.collect()
    baseline, peak, done = memory("VmRSS"), [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], memory("VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.time()
    work(*args, **options)
    done.set()
    watcher.join()
    return {"peak": peak[0] - baseline, "seconds": time.time() - start}


layer = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * FFN)
warm, whole = Synthetic(1), Synthetic(int(np.ceil((size - 4 * VOCAB * WIDTH) / layer)))
(home / "warm").mkdir()
save_folder(warm, home / "warm", shard)
shutil.copy(sys.argv[4], home / "warm" / "text_tokenizer.json")
import_checkpoints([str(home / "warm")], home / "warm_in", system="unitoken")
export_checkpoint(str(home / "warm_in"), home / "warm_out", form="upstream", max_shard=shard)
for name in ("warm_in", "warm_out"):
    shutil.rmtree(home / name)

save_folder(whole, home / "theirs", shard)
shutil.copy(sys.argv[4], home / "theirs" / "text_tokenizer.json")
files = list((home / "theirs").glob("*.safetensors"))
told = {"bytes": sum(f.stat().st_size for f in files), "largest": max(f.stat().st_size for f in files), "layer": layer}
del whole.bits, warm
told["import"] = peak_of(import_checkpoints, [str(home / "theirs")], home / "ours", system="unitoken")
told["export"] = peak_of(export_checkpoint, str(home / "ours"), home / "back", form="upstream", max_shard=shard)

from unitok_jax.weights.containers import open_source

theirs, back = open_source(home / "theirs"), open_source(home / "back")
assert set(theirs.keys()) == set(back.keys())
last = max(int(key.split(".")[2]) for key in theirs.keys() if key.startswith("model.layers."))
for key in ("lm_head.weight", f"model.layers.{last}.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
    assert np.array_equal(theirs.read(key).view(np.uint16), back.read(key).view(np.uint16)), key
print(json.dumps(told))
"""


@pytest.mark.exhaustive
def test_a_checkpoint_larger_than_what_may_be_held(tmp_path):
    from unitok_jax.systems.unitoken.vocabulary import TINY

    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", WORK, str(tmp_path), str(GIGABYTES), str(SHARD), str(TINY)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    finally:
        for folder in ("theirs", "ours", "back"):
            subprocess.run(["rm", "-rf", str(tmp_path / folder)], check=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["bytes"] >= GIGABYTES * 1e9
    assert told["largest"] <= SHARD * 1.01
    allowed = told["largest"] + told["layer"] + 1e9
    for way in ("import", "export"):
        assert told[way]["peak"] <= allowed, f"{way} held {told[way]['peak'] / 1e9:.2f} GB, allowed {allowed / 1e9:.2f}"
