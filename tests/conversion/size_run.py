"""Run by `test_conversion_size`, a process a measurement: ``size_run.py WIDTH NAME FOLDER NUMBERS``; prints JSON."""

import gc
import json
import math
import shutil
import sys
import threading
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from unitok_jax.conversion.exporting import export_checkpoint
from unitok_jax.conversion.importing import import_checkpoints
from unitok_jax.systems.unitoken.vocabulary import TINY
from unitok_jax.training.checkpoints import Checkpoints
from unitok_jax.training.state import TrainState
from unitok_jax.training.workdir import stored_leaves
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.safetensors_files import save_folder
from unitok_jax.weights.transfer import flat, nested

WIDTH = int(sys.argv[1])
FFN, HEADS, VOCAB = 4 * WIDTH, WIDTH // 128, 16 * WIDTH
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * FFN  # numbers
BITS = np.random.default_rng(0).integers(0, 2**14, 2 * VOCAB * WIDTH, np.uint16).view(ml_dtypes.bfloat16)


class Synthetic:
    """A Lumina-mGPT of some layers, its numbers cut from one random buffer."""

    def __init__(self, layers):
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
        return BITS[start : start + math.prod(self.shape(key))].reshape(self.shape(key))


def memory():
    """Bytes that this process has in memory, files mapped included."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024


def peak_of(work, *args, **options):
    """The most bytes held while it works, beyond those held before."""
    gc.collect()
    baseline, peak, done = memory(), [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.time()
    work(*args, **options)
    done.set()
    watcher.join()
    return {"peak": peak[0] - baseline, "seconds": round(time.time() - start, 1)}


def sizes_of(folder):
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    return {"bytes": sum(sizes), "largest": max(sizes)}


def publish(home, layers, shard):
    """A published checkpoint with its vocabulary."""
    save_folder(Synthetic(layers), home, shard)
    shutil.copy(TINY, home / "text_tokenizer.json")


def there_and_back(home, size, shard):
    """Imports and exports a synthetic checkpoint of `size` bytes."""
    publish(home / "warm", 1, shard)
    import_checkpoints([str(home / "warm")], home / "warm_in", system="unitoken")
    export_checkpoint(str(home / "warm_in"), home / "warm_out", form="upstream", max_shard=shard)
    for name in ("warm_in", "warm_out"):
        shutil.rmtree(home / name)

    layers = math.ceil((size - 4 * VOCAB * WIDTH) / (2 * LAYER))
    publish(home / "theirs", layers, shard)
    told = {**sizes_of(home / "theirs"), "layer": 2 * LAYER}
    told["import"] = peak_of(import_checkpoints, [str(home / "theirs")], home / "ours", system="unitoken")
    told["export"] = peak_of(export_checkpoint, str(home / "ours"), home / "back", form="upstream", max_shard=shard)
    same(home, (f"model.layers.{layers - 1}.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight"))
    return told


def same(home, keys):
    theirs, back = open_source(home / "theirs"), open_source(home / "back")
    assert set(theirs.keys()) == set(back.keys())
    for key in ("lm_head.weight", *keys):
        assert np.array_equal(np.asarray(theirs.read(key), "f4"), np.asarray(back.read(key), "f4")), key


def train(home, layers):
    """Leaves what a run of training leaves, in float32, and the same as a published checkpoint."""
    publish(home / "theirs", layers, 10**12)
    import_checkpoints([str(home / "theirs")], home / "ours", system="unitoken")
    leaves = {path: np.asarray(leaf).astype("f4") for path, leaf in stored_leaves(home / "ours").items()}
    params = nested({path: jax.numpy.asarray(leaf) for path, leaf in leaves.items()})
    checkpoints = Checkpoints(home / "run", 1)
    state = TrainState(jax.numpy.int32(1), jax.numpy.int32(0), params, {}, {}, {})
    checkpoints.save(1, state, {"cursors": jax.numpy.zeros(1)}, {})
    checkpoints.close()
    config = (home / "ours" / "config.json").read_text().replace("{workdir}", str(home / "ours"))
    (home / "run" / "config.json").write_text(config)
    return {"bytes": sum(leaf.nbytes for leaf in flat(params).values())}


def export_run(home, shard):
    """Exports that run."""
    told = peak_of(export_checkpoint, str(home / "run"), home / "back", form="upstream", max_shard=shard)
    same(home, ("model.layers.0.mlp.down_proj.weight",))
    return {"export": told, "layer": 4 * LAYER, **sizes_of(home / "back")}


if __name__ == "__main__":
    name, folder, *arguments = sys.argv[2:]
    work = {"there_and_back": there_and_back, "train": train, "export_run": export_run}[name]
    print(json.dumps(work(Path(folder), *map(int, arguments))))
