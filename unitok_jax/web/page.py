"""How the page looks, in gradio: four tabs over `Actions`."""

import contextlib
import functools
import importlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.conversion.loading import load_run
from unitok_jax.errors import UserError
from unitok_jax.inference.chat import Chat
from unitok_jax.web.actions import Actions, Limits

FONTS = ["system-ui", "sans-serif"]  # of the machine: the page fetches nothing from elsewhere
BUTTONS = ["download", "fullscreen"]  # not the one that shares a picture on a public site
SHOWN = 256  # pixels a side that small pictures are enlarged to
MODEL: Mapping[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of every click that runs the model: gradio counts by event, so that those of four tabs would run at once."""
NO_EDITS = "The recipe of this model has no task `edit` among its data: it may draw anything here."


def serve(workdir: str, host: str, port: int, queue: int, mesh: str | None) -> None:
    """Opens the page, prints its address, and waits until it is interrupted; see `opened`."""
    with opened(workdir, host, port, queue, mesh) as page:
        print(f"http://{host}:{port}", flush=True)
        page.block_thread()


@contextlib.contextmanager
def opened(
    workdir: str, host: str, port: int, queue: int, mesh: str | None = None, limits: Limits | None = None
) -> Generator[Any]:
    """The page of a workdir's model, listening; its uploads go away with it.

    Args:
        workdir: a run or an import.
        host, port: where it listens; only this machine reaches 127.0.0.1.
        queue: requests that may wait; one at a time is worked on, whichever tab it comes from.
        mesh: see `load_run`.
        limits: what they may ask for.

    Raises:
        UserError: without gradio or a model, if the mesh does not fit the devices, or if the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="unitok-web-") as folder:
        gradio = _gradio(folder)
        pipeline, config = load_run(workdir, mesh)
        actions = Actions(pipeline, config, Path(folder), limits)
        page = build(gradio, actions).queue(max_size=queue)
        theme = gradio.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"])
        largest = f"{actions.limits.megabytes}mb"
        where = {"server_name": host, "server_port": port, "share": False, "max_file_size": largest}
        try:
            page.launch(**where, theme=theme, prevent_thread_lock=True, quiet=True)
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); take another port") from None
        try:
            yield page
        finally:
            page.close(verbose=False)


def _gradio(folder: str) -> Any:
    """Gradio, without its reports home, its uploads in a folder of ours."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise UserError("unitok serve needs gradio: pip install 'unitok-jax[web]'") from None


def build(gradio: Any, actions: Actions) -> Any:
    """The page, a `gradio.Blocks` that was not launched yet."""
    config = actions.config
    with gradio.Blocks(title="unitok", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"# {config.system}, stage {config.stage}")
        for title, fill in {"Draw": _draw, "Edit": _edit, "Chat": _chat, "Codes": _codes}.items():
            with gradio.Tab(title):
                fill(gradio, actions)
    return page


def _draw(gradio: Any, actions: Actions) -> None:
    prompt = gradio.Textbox(label="Prompt", max_length=actions.limits.letters, elem_id="draw-prompt")
    how = _how(gradio, actions)
    button = gradio.Button("Draw", variant="primary", elem_id="draw-button")
    drawn = gradio.Image(label="Drawing", format="png", buttons=BUTTONS, interactive=False, elem_id="drawn")
    work = _told(gradio, lambda *given: _frames(actions.draw(*given)))
    button.click(work, [prompt, *how], drawn, show_progress="minimal", **MODEL)


def _edit(gradio: Any, actions: Actions) -> None:
    if not actions.learnt_edits:
        gradio.Markdown(NO_EDITS)
    upload = _upload(gradio, "edit-upload")
    prompt = gradio.Textbox(label="What to change", max_length=actions.limits.letters)
    how = _how(gradio, actions)
    button = gradio.Button("Edit", variant="primary")
    drawn = gradio.Image(label="Edited", format="png", buttons=BUTTONS, interactive=False)

    def work(upload: str | None, *given: Any) -> Iterator[np.ndarray]:
        actions.read(upload)  # an edit without a picture would be a drawing
        yield from _frames(actions.draw(*given, upload))

    button.click(_told(gradio, work), [upload, prompt, *how], drawn, show_progress="minimal", **MODEL)


def _chat(gradio: Any, actions: Actions) -> None:
    talk, shown = gradio.State(None), gradio.Chatbot(label="Conversation")
    upload = _upload(gradio, "chat-upload")
    message = gradio.Textbox(label="Message", max_length=actions.limits.letters)
    draw = gradio.Checkbox(label="Answer with a picture")
    drawn = gradio.Gallery(label="Pictures of the answer", format="png", buttons=BUTTONS, interactive=False)
    button, again = gradio.Button("Send", variant="primary"), gradio.Button("Begin anew")

    def say(talk: Chat | None, shown: list, message: str, upload: str | None, draw: bool) -> Iterator[tuple]:
        talk = talk or Chat(actions.pipeline)
        reply = actions.say(talk, message, upload, draw)
        answer = reply.text or f"({len(reply.images)} picture{'s' * (len(reply.images) != 1)})"
        shown = [*shown, {"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        yield talk, shown, "", None, [_large(image) for image in reply.images]

    parts = [talk, shown, message, upload, drawn]
    button.click(_told(gradio, say), [talk, shown, message, upload, draw], parts, **MODEL)
    for anew in (again.click, shown.clear):  # the bin above the conversation empties what the model remembers too
        anew(lambda: (None, [], "", None, []), None, parts)


def _codes(gradio: Any, actions: Actions) -> None:
    upload = _upload(gradio, "codes-upload")
    button = gradio.Button("Compare", variant="primary", elem_id="codes-button")
    with gradio.Row():
        look = {"format": "png", "buttons": BUTTONS, "interactive": False}
        original = gradio.Image(label="Original", **look)
        back = gradio.Image(label="From its codes", elem_id="codes-back", **look)
    codes = gradio.Textbox(label="Codes", lines=8, interactive=False, elem_id="codes-text")

    def work(upload: str | None) -> Iterator[tuple]:
        image, again, told = actions.compare(upload)
        yield _large(image), _large(again), told

    button.click(_told(gradio, work), upload, [original, back, codes], **MODEL)


def _how(gradio: Any, actions: Actions) -> list[Any]:
    """Guidance, seed and size."""
    own = actions.pipeline.settings.draw.guidance
    with gradio.Row():
        return [
            gradio.Slider(1, actions.limits.guidance, value=max(1, own), step=0.1, label="Guidance"),
            gradio.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed"),
            gradio.Textbox(label="Size: ROWSxCOLUMNS of codes, empty for the model's own", max_length=12),
        ]


def _upload(gradio: Any, name: str) -> Any:
    """A picture of the visitor's, handed on as the path of the uploaded file: `Actions.read` decodes it."""
    return gradio.Image(label="Picture", type="filepath", image_mode=None, sources=["upload"], height=240, elem_id=name)


def _told(gradio: Any, work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """What goes wrong by the visitor's input is shown to them in one line."""

    @functools.wraps(work)
    def told(*given: Any) -> Iterator[Any]:
        try:
            yield from work(*given)
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from None

    return told


def _frames(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pictures as they follow one another, without repeats: gradio would write one over the file that it is sending."""
    last = np.zeros(0)
    for picture in pictures:
        if not np.array_equal(picture, last):
            yield _large(picture)
        last = picture


def _large(image: np.ndarray) -> np.ndarray:
    """Small pictures with larger pixels."""
    times = max(1, SHOWN // max(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)
