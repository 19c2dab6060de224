"""The command line: help, mistakes in one line, and every command on a model of two steps."""

import errno
import json
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from unitok_jax import cli
from unitok_jax.cli.arguments import COMMANDS, parse
from unitok_jax.data.records import find_shards

RECIPE = '''
"""A UniToken of a few thousand parameters, every part fresh."""
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict(dict(system="unitoken", stage="lm", seed=0, steps=2))
    config.model = dict(
        image_size=16,
        vqgan=dict(channels=8, multipliers=(1, 1, 2), res_blocks=1, z_channels=8, embed_dim=4, codebook_size=256,
                   resolution=16, groups=4),
        vit=dict(width=16, ffn=16, layers=1, heads=2, image_size=16, patch_size=4),
        lm=dict(vocab_size=704, width=16, ffn=16, layers=1, heads=2, kv_heads=2, head_dim=8, qk_norm="layernorm"),
    )
    config.stage_options = dict(row_length=112, pack=True, images=2, pictures=2)
    config.data = dict(train=[dict(kind="digits", task="caption", split="train")], batch_size=2)
    config.optimizer = dict(lr=1e-3, schedule=dict(name="constant"))
    config.fresh = ("lm", "adapter", "vit", "vqgan")
    config.log_every = 1
    config.sample_every = 2
    digits = dict(kind="digits", split="held_out")
    config.samples = dict(prompts=("a red seven",), source=digits, caption=1, reconstruct=2)
    config.inference = dict(read=dict(max_steps=3), draw=dict(image=dict(temperature=0.7), max_steps=32), batch_size=2)
    config.evaluation = dict(prompts_per_pair=1)
    return config
'''


def run(capsys, *argv):
    """Exit code, standard output, standard error."""
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("cli")
    recipe = home / "recipe.py"
    recipe.write_text(RECIPE)
    assert cli.main(["train", "--config", str(recipe), "--workdir", str(home / "run")]) == 0
    return home


@pytest.fixture(scope="module")
def picture(trained):
    path = trained / "seven.png"
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(path)
    return path


def test_help_teaches_and_is_quick():
    done = subprocess.run(
        [sys.executable, "-m", "unitok_jax.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in COMMANDS)
    # 0.1 s on an idle machine; importing JAX alone would take seconds
    probe = "import sys; import unitok_jax.cli; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_examples_that_parse(name, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([name, "--help"])
    assert done.value.code == 0
    examples = [line.strip() for line in capsys.readouterr().out.split("examples:")[1].splitlines() if line.strip()]
    assert examples
    for example in examples:
        parse(shlex.split(example)[1:])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "no command 'trian'. Did you mean train?"),
        (["train"], "--config, --workdir"),
        (["train", "--confg", "x"], "no option --confg. Did you mean --config?"),
        (["generate", "--workdir", "w", "--gidance", "3", "x"], "no option --gidance. Did you mean --guidance"),
        (["caption", "--config.a=3", "--workdir", "w", "x"], "no option --config.a"),
        (["--verson"], "Did you mean --version?"),
        (["inspect", "a", "b"], "'b' is one argument too many"),
        (["generate", "--workdir", "w", "--count", "x", "p"], "invalid int value: 'x'"),
        (["generate", "--workdir", "w", "--count", "0", "p"], "--count: expected 1 or more, got 0"),
        (["train", "--config", "gone.py", "--workdir", "w"], "gone.py: no such config file"),
        (["inspect", "gone"], "gone: no such file or folder"),
        (["caption", "--workdir", "gone", "gone.png"], "image missing: gone.png"),
        (["evaluate", "--workdir", "gone", "--suite", "digit"], "no suite 'digit'. Did you mean digits?"),
        (
            ["evaluate", "--workdir", "gone", "--suite", "pope"],
            "pip install 'unitok-jax[lmms]', then python -m lmms_eval",
        ),
        (["evaluate", "--workdir", "gone", "--limit", "-3"], "-3: expected a whole number from 1"),
        (["generate", "--workdir", "gone", "p", "--seed", "5000000000"], "--seed: 5000000000: expected a whole number"),
        (
            ["tokenize", "--workdir", "w", "--out", "o", "--source", "digits", "--mesh", "tensr=2"],
            "Did you mean tensor?",
        ),
        (
            ["tokenize", "--workdir", "w", "--out", "o", "--source", "digits", "--mesh", "data=x"],
            "expected data=NUMBER",
        ),
        (["tokenize", "--workdir", "w", "--out", "o", "--source", "digit"], "no kind of source 'digit'"),
        (["tokenize", "--workdir", "w", "--out", "o", "--source", "digits", "splt"], "reads key=value, got 'splt'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "No space left on device: 'runs/x'"),
    ],
)
def test_what_stops_a_command_from_outside(capsys, monkeypatch, raised, code, told):
    def stop(args):
        raise raised

    monkeypatch.setattr("unitok_jax.cli.parse", lambda argv: (stop, None))
    found, _, err = run(capsys, "x")
    assert found == code
    assert told in err


@pytest.mark.parametrize(("path", "client", "extra"), [("gs://b/run", "gcsfs", "gcs"), ("s3://b/run", "s3fs", "s3")])
def test_a_bucket_without_its_client_names_the_extra(capsys, monkeypatch, path, client, extra):
    monkeypatch.setitem(sys.modules, client, None)
    code, _, err = run(capsys, "inspect", path)
    assert code == 2
    assert err == f"error: a bucket needs {client}: pip install 'unitok-jax[{extra}]'\n"


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr("unitok_jax.cli.parse", lambda argv: (fail, None))
    with pytest.raises(ZeroDivisionError):
        cli.main(["x"])


def test_train_writes_config_metrics_checkpoint_and_samples(trained):
    run_folder = trained / "run"
    assert json.loads((run_folder / "config.json").read_text())["stage"] == "lm"
    assert (run_folder / "checkpoints" / "2").is_dir()
    assert any((run_folder / "metrics").glob("*.jsonl"))
    assert Image.open(run_folder / "samples" / "0000000002.png").size[0] > 16
    texts = [json.loads(line) for line in (run_folder / "samples" / "0000000002.jsonl").read_text().splitlines()]
    assert [set(text) for text in texts] == [{"prompt"}, {"picture", "caption"}]


def test_train_again_goes_on_and_another_config_is_refused(trained, capsys):
    recipe, workdir = trained / "recipe.py", trained / "run"
    assert run(capsys, "train", "--config", recipe, "--workdir", workdir)[0] == 0
    code, _, err = run(capsys, "train", "--config", recipe, "--workdir", workdir, "--config.seed=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "config.seed = 0, not 1" in err
    code, _, err = run(capsys, "train", "--config", recipe, "--workdir", workdir, "--config.model.lm.widht=1")
    assert "Did you mean width" in err


def test_inspect(trained, capsys):
    for path in (trained / "recipe.py", trained / "run"):
        code, out, _ = run(capsys, "inspect", path)
        assert code == 0
        assert "lm: " in out and "vqgan: " in out and "Total: " in out
    code, out, _ = run(capsys, "inspect", trained / "run" / "checkpoints" / "2" / "params")
    assert code == 0
    assert "lm" in out


@pytest.mark.slow
def test_caption_and_ask(trained, picture, capsys):
    code, out, _ = run(capsys, "caption", "--workdir", trained / "run", picture)
    assert code == 0
    assert out.startswith(f"{picture}\t")
    code, out, _ = run(capsys, "ask", "--workdir", trained / "run", "--question", "which digit?", picture, picture)
    assert code == 0
    assert out.count(f"{picture}\t") == 2
    code, _, err = run(capsys, "caption", "--workdir", trained / "run", picture, "--mesh", "tensor=3")
    assert code == 2
    assert "--mesh: data=1 x fsdp=1 x tensor=3 x context=1 does not fit 1 devices; nearest: data=1" in err


@pytest.mark.slow
def test_generate_follows_the_seed(trained, capsys):
    def draw(folder, *options):
        command = ["generate", "--workdir", trained / "run", "A red seven!", "--out", trained / folder, *options]
        code, out, _ = run(capsys, *command)
        assert code == 0
        return [np.array(Image.open(path)) for path in out.splitlines()]

    first, second = draw("a", "--count", "2", "--seed", "5", "--guidance", "2")
    (again,) = draw("b", "--seed", "6", "--guidance", "2")
    assert first.shape == (16, 16, 3)
    assert (second == again).all()
    assert (trained / "a" / "0005-a-red-seven.png").exists()


def test_reconstruct(trained, picture, capsys):
    code, out, _ = run(capsys, "reconstruct", "--workdir", trained / "run", picture, "--out", trained / "back")
    assert (code, out) == (0, f"{trained}/back/seven.png\n")
    code, _, err = run(capsys, "reconstruct", "--workdir", trained / "run", picture, picture)
    assert code == 2
    assert "two pictures are named seven" in err


@pytest.mark.slow
def test_a_model_without_the_part_that_a_command_needs(trained, picture, capsys):
    config = json.loads((trained / "run" / "config.json").read_text())
    assert config["stage"] == "lm"
    recipe = (trained / "recipe.py").read_text()
    recipe = recipe.replace('stage="lm"', 'stage="vqgan"').replace('("lm", "adapter", "vit", "vqgan")', '("vqgan",)')
    recipe = recipe.replace("config.stage_options = dict(row_length=112, pack=True, images=2, pictures=2)", "")
    recipe = recipe.replace('task="caption"', 'task="image"').replace("sample_every = 2", "sample_every = 0")
    (trained / "codes.py").write_text(recipe)
    workdir = trained / "tokenizer"
    assert run(capsys, "train", "--config", trained / "codes.py", "--workdir", workdir)[0] == 0
    assert run(capsys, "reconstruct", "--workdir", workdir, picture, "--out", trained / "alone")[0] == 0
    code, _, err = run(capsys, "generate", "--workdir", workdir, "x", "--out", trained / "none")
    assert code == 2
    assert "a run of stage 'vqgan' has only vqgan; this command also needs 'lm'" in err


@pytest.mark.slow
def test_tokenize_writes_shards_once(trained, capsys):
    out = trained / "codes"
    command = ["tokenize", "--workdir", trained / "run", "--source", "digits", "split=held_out", "--out", out]
    code, told, _ = run(capsys, *command, "--shards", "2")
    assert code == 0
    assert told == "written\t300\n"
    assert len(find_shards(str(out))) == 2
    code, told, _ = run(capsys, *command, "--shards", "2")
    assert (code, told) == (0, "written\t300\n"), "counted from the shards that are there"
    code, _, err = run(capsys, *command, "--shards", "3")
    assert code == 2
    assert "made with another shards" in err


def test_an_export_tells_step_config_data_and_metrics(trained, capsys):
    code, _, _ = run(capsys, "export", "--workdir", trained / "run", "--out", trained / "exported")
    assert code == 0
    card = (trained / "exported" / "README.md").read_text()
    _, told, _ = run(capsys, "inspect", trained / "recipe.py")
    (config,) = [line for line in told.splitlines() if line.startswith("config ")]
    assert f"step 2 of a training run. Config `{config.split()[1]}`" in card
    assert "- digits, task caption (split=train)" in card
    assert any(line.startswith("| loss/") for line in card.splitlines())


@pytest.mark.slow
def test_evaluate_writes_figures_and_a_report(trained, capsys):
    out = trained / "figures"
    command = ["evaluate", "--workdir", trained / "run", "--out", out, "--started", time.time()]
    code, told, _ = run(capsys, *command)
    assert code == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert {"caption_exact", "generation_correct", "reconstruction_psnr", "seconds"} <= set(figures)
    assert f"report\t{out}/report.html" in told
