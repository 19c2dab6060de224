"""A model to be used: captions, answers, drawings, reconstructions, in batches."""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.data.pictures import Images, Picture
from unitok_jax.data.rows import ExampleRow
from unitok_jax.errors import UserError
from unitok_jax.inference import decode as loop
from unitok_jax.inference import reflection
from unitok_jax.inference.prompts import bucket, prompt_batch, several_sizes
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.parallel.mesh import batch_shards, row_sharding
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.guidance import rows_per_sample
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems.base import Batch, HasCodebooks, Ids, Params, System, VisualTokens
from unitok_jax.systems.pixels import to_float

Progress = Callable[[int, int], None]  # (done, total) samples
Views = Mapping[str, Sequence[np.ndarray]]
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model wrote: text, `IMAGE` where it drew, and the codes [rows, columns] of those images."""

    text: str
    images: list[np.ndarray]


class Pipeline:
    """A system with its parameters.

    Every method takes a list of any length, works in batches of `settings.batch_size`, and calls `progress`, if
    given, with (done, total) after each. A sample's result depends on its own input and seed alone.

    Args:
        system: the model.
        params: its parameters, on one device or sharded over many.
        settings: how to decode unless the call says otherwise.
        progress: told how far a call has come.
        mesh: of the devices that it works on, rows cut over its batch axes; None leaves everything where it is.
    """

    def __init__(
        self,
        system: System,
        params: Params,
        settings: InferenceSettings | None = None,
        progress: Progress | None = None,
        mesh: Mesh | None = None,
    ):
        self.system, self.params, self.mesh = system, params, mesh
        self.settings = settings or InferenceSettings()
        self.progress = progress
        self._encode = jax.jit(lambda params, pixels: system.encode_image(params, jax.tree.map(to_float, pixels)))
        self._decode = jax.jit(system.decode_image)
        self._code_views: dict[tuple[str, tuple[int, ...]], bool] = {}

    @property
    def codebook_size(self) -> int:
        """How many values a visual code takes."""
        return self.system.codebook_size

    def caption(self, images: Images, *, feature_images: Images | None = None) -> list[str]:
        """Describes each image.

        Args:
            images: uint8 [H, W, 3] each.
            feature_images: what the views that give features see in the place of `images`: for finding out which
                visual stream the model leans on.
        """
        return self._about(images, [self.settings.prompt("caption")] * len(images), feature_images)

    def ask(self, images: Images, questions: Sequence[str], *, feature_images: Images | None = None) -> list[str]:
        """Answers one question about each image.

        Raises:
            UserError: unless there are as many questions as images.
        """
        _one_each(images, questions, "questions")
        template = self.settings.prompt("question")
        return self._about(images, [template.replace("{question}", q) for q in questions], feature_images)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int] | int = 0,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        grid: tuple[int, int] | None = None,
        best_of: int = 1,
        noise_steps: int | None = None,
    ) -> UInt8[np.ndarray, "N H W 3"]:
        """Draws one image for each prompt.

        Args:
            prompts: what to draw; the settings' prompt for generation stands around it.
            seeds: one a prompt, or the first of consecutive ones.
            guidance, temperature, top_k, grid, noise_steps: in the place of the settings' own; `temperature` and
                `top_k` are those of the codes, `grid` is (rows, columns) of codes, which a model may not have learnt
                to draw, `noise_steps` the solver's, where codes are drawn by diffusion.
            best_of: so many are drawn of each prompt, and the one kept that the model itself finds to show it best.

        Raises:
            UserError: if an image was not finished within the settings' `max_steps`, or for `best_of` with a system
                that does not judge its own drawings.
        """
        reflection.check(self.system, best_of)
        examples = [self._prompted(i, prompt) for i, prompt in enumerate(prompts)]
        decoding = _override(self.settings.draw, guidance, temperature, top_k, grid, noise_steps)
        own = _seeds(seeds, len(prompts))
        tried = [seed + len(prompts) * number for seed in own for number in range(best_of)]
        drawn = self._drawn([example for example in examples for _ in range(best_of)], decoding, tried)
        if best_of > 1:
            asked = [(prompts[index // best_of], codes) for index, codes in enumerate(drawn)]
            with self.on_mesh():
                score = functools.partial(reflection.scores, self.system, self.params, place=self.place)
                found = self._in_batches(asked, score)
            drawn = [drawn[index] for index in reflection.best(found, best_of)]
        return self.decode(np.stack(drawn))

    def edit(
        self,
        images: Images,
        instructions: Sequence[str],
        *,
        seeds: Sequence[int] | int = 0,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        grid: tuple[int, int] | None = None,
        noise_steps: int | None = None,
    ) -> UInt8[np.ndarray, "N H W 3"]:
        """Draws each image anew as its instruction says; needs a model that was trained on edits.

        Args:
            images: uint8 [H, W, 3] each; the model sees all of their views.
            instructions: one an image.
            seeds, guidance, temperature, top_k, grid, noise_steps: see `generate`.

        Raises:
            UserError: unless there are as many instructions as images, or if an image was not finished.
        """
        _one_each(images, instructions, "instructions")
        examples = [self._edited(i, *pair) for i, pair in enumerate(zip(images, instructions, strict=True))]
        decoding = _override(self.settings.draw, guidance, temperature, top_k, grid, noise_steps)
        return self.decode(np.stack(self._drawn(examples, decoding, seeds)))

    def drawing(
        self,
        prompt: str,
        *,
        image: Picture | None = None,
        seed: int = 0,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        grid: tuple[int, int] | None = None,
        chunk: int = 16,
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """One image as it forms, `chunk` steps at a time; the last one is what `generate` or `edit` gives.

        A system without ``forming`` (see `systems.base`) yields that alone.

        Args:
            prompt: what to draw, or with `image`, uint8 [H, W, 3], how to change it.
            seed, guidance, temperature, top_k, grid: see `generate`.
            chunk: decode steps between two pictures.

        Raises:
            UserError: if the image was not finished within the settings' `max_steps`.
        """
        decoding = _override(self.settings.draw, guidance, temperature, top_k, grid, None)
        example = self._prompted(0, prompt) if image is None else self._edited(0, image, prompt)
        forming, finished = getattr(self.system, "forming", lambda ids: None), []
        for ids in self.stream(example, decoding, seed, chunk):
            finished = self.system.read(ids)[1]
            codes = finished[0] if finished else forming(ids)
            if codes is not None:
                yield self.decode(codes[None])[0]
        if not finished:
            raise _unfinished(example, decoding)

    def answer(
        self, examples: Sequence[Example], decoding: Decoding | None = None, seeds: Sequence[int] | int = 0
    ) -> list[Answer]:
        """Writes the last assistant turn of each example: text, images or both."""
        asked = list(zip(examples, examples, _seeds(seeds, len(examples)), strict=True))
        return self._in_batches(asked, functools.partial(self._answers, decoding or self.settings.read))

    def stream(self, example: Example, decoding: Decoding, seed: int = 0, chunk: int = 16) -> Iterator[Ids]:
        """The ids of one example's answer so far, `chunk` steps at a time; `System.read` makes sense of them."""
        batch = self._batch(*self._prompts([example], [example]), decoding)
        chunks = loop.stream(self.system, self.params, batch, sample_keys(np.array([seed])), decoding, chunk)
        while True:
            with self.on_mesh():
                ids = next(chunks, None)
            if ids is None:
                return
            yield ids[0]

    def encode(self, images: Images, *, codes_alone: bool = False) -> VisualTokens:
        """Codes [N, 1, n] and features [N, pictures, n, C] of images, each where the system has them, as numpy arrays.

        Where images are seen as different numbers of pictures, features of black ones make up the difference. With
        `codes_alone` the views that give features are not read.

        Raises:
            UserError: if images are seen at different sizes; see `encode_each` and `alike`.
        """

        def work(part: Sequence[np.ndarray]) -> list[VisualTokens]:
            return self._tokens([self.system.views(image) for image in part], codes_alone)

        found = self._in_batches(images, work)
        if len({tokens.grid for tokens in found}) > 1:
            raise UserError("images of several sizes in one call, each with codes of its own number; give them apart")
        return jax.tree.map(lambda *parts: np.stack(parts), *found)

    def encode_each(self, images: Images) -> list[tuple[Int[np.ndarray, "_ ..."], tuple[int, int] | None]]:
        """Codes [n, *depth] of each image with their (rows, columns), for images that may be seen at different sizes.

        The grid is None of a system whose codes are a sequence.
        """
        seen = [self.system.views(image) for image in images]
        coded: list[Any] = [None] * len(seen)
        for members in _groups(list(map(_sizes, seen))):
            found = self._in_batches([seen[i] for i in members], lambda part: self._tokens(part, codes_alone=True))
            for i, tokens in zip(members, found, strict=True):
                coded[i] = tokens.coded[0], tokens.grid
        return coded

    def alike(self, images: Images) -> list[list[int]]:
        """Indices of the images that are seen at one size together, for `encode`."""
        return _groups([_sizes(self.system.views(image)) for image in images])

    def decode(self, codes: Int[np.ndarray, "N *codes"]) -> UInt8[np.ndarray, "N H W 3"]:
        """Images from codes: [N, rows, columns, *depth], or [N, n] of a system whose codes are a sequence."""

        def work(part: Sequence[np.ndarray]) -> np.ndarray:
            with self.on_mesh():
                return self.system.to_uint8(loop.to_host(self._decode(self.params, self.place(np.stack(part)))))

        return np.stack(self._in_batches(codes, work))

    def reconstruct(self, images: Images) -> UInt8[np.ndarray, "N H W 3"] | list[Picture]:
        """Images through their codes and back; a list where they come back in several sizes."""
        coded, back = self.encode_each(images), [np.zeros(0)] * len(images)
        for members in _groups([grid for _, grid in coded]):
            codes, grid = np.stack([coded[i][0] for i in members]), coded[members[0]][1]
            shape = codes.shape if grid is None else (len(codes), *grid, *codes.shape[2:])
            for i, picture in zip(members, self.decode(codes.reshape(shape)), strict=True):
                back[i] = picture
        return np.stack(back) if len({picture.shape for picture in back}) == 1 else back

    def on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        """Around programs that run on its parameters."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def place(self, batch: Any) -> Any:
        """Lays a tree of arrays with leading rows over the mesh."""
        rows = len(jax.tree.leaves(batch)[0])
        return batch if self.mesh is None else jax.device_put(batch, row_sharding(self.mesh, rows))

    def decode_tokens(self, tokens: VisualTokens) -> UInt8[np.ndarray, "N H W 3"]:
        """Images from what `encode` gave of one image each."""
        codes = np.asarray(tokens.coded)
        grid = tokens.grid or codes.shape[2:3]
        return self.decode(codes.reshape(len(codes), *grid, *codes.shape[3:]))

    def seen(self, images: Images) -> UInt8[np.ndarray, "N H W 3"]:
        """What codes are made of: each image as the view that gives codes shows it."""
        (view,) = self._pixels([self.system.views(image) for image in images], codes_alone=True).values()
        return view[:, 0]

    def gives_features(self, image: Picture) -> bool:
        """Whether the model reads an image as features too, and not as codes alone."""
        return self._shapes(self.system.views(image)).features is not None

    def codebooks(self, tokens: VisualTokens) -> dict[str, tuple[Int[np.ndarray, "N n depth"], int]]:
        """The codes of each codebook, one column a depth, and how many entries it has.

        A system of several tells them apart, see `HasCodebooks`; else all are one, ``codebook``.
        """
        codes = np.asarray(tokens.coded)[:, 0]
        codes = codes if codes.ndim == 3 else codes[..., None]
        if isinstance(self.system, HasCodebooks):
            return self.system.codebooks(codes)
        return {"codebook": (codes, self.codebook_size)}

    def _drawn(self, examples: Sequence[Example], decoding: Decoding, seeds: Sequence[int] | int) -> list[np.ndarray]:
        """The codes of each example's image."""
        answers = self.answer(examples, decoding, seeds)
        unfinished = [example for example, answer in zip(examples, answers, strict=True) if not answer.images]
        if unfinished:
            raise _unfinished(unfinished[0], decoding)
        return [answer.images[0] for answer in answers]

    def _prompted(self, index: int, prompt: str) -> Example:
        text = self.settings.prompt("generate").replace("{caption}", prompt)
        return Example(f"prompt {index}", (Turn("user", text),), task=Task.GENERATION)

    def _edited(self, index: int, image: np.ndarray, instruction: str) -> Example:
        text = self.settings.prompt("edit").replace("{instruction}", instruction)
        turn = Turn("user", text if IMAGE in text else IMAGE + text)
        return Example(f"edit {index}", (turn,), (image,), Task.GENERATION)

    def _about(self, images: Images, questions: Sequence[str], feature_images: Images | None) -> list[str]:
        examples = list(map(_question, range(len(images)), images, questions))
        featured = examples
        if feature_images is not None:
            featured = [dataclasses.replace(e, images=(f,)) for e, f in zip(examples, feature_images, strict=True)]
        asked = list(zip(examples, featured, _seeds(0, len(examples)), strict=True))
        answers = self._in_batches(asked, functools.partial(self._answers, self.settings.read))
        return [words_of(answer.text) for answer in answers]

    def _answers(self, decoding: Decoding, asked: Sequence[tuple[Example, Example, int]]) -> list[Answer]:
        """Decodes one batch of (example, the example whose features are seen, seed)."""
        examples, featured, seeds = zip(*asked, strict=True)
        batch = self._batch(*self._prompts(examples, featured), decoding)
        with self.on_mesh():
            done = loop.decode(self.system, self.params, batch, sample_keys(np.array(seeds)), decoding)
        return [Answer(*self.system.read(ids)) for ids in loop.written(done)]

    def _prompts(
        self, examples: Sequence[Example], featured: Sequence[Example]
    ) -> tuple[Sequence[Example], list[ExampleRow]]:
        """The prompts; where their pictures are of several sizes, with the codes in the place of the pictures."""
        rows = list(map(self._prompt, examples, featured))
        if not several_sizes(rows):
            return examples, rows
        coded = iter(self.encode_each([image for example in examples for image in example.images]))
        made = []
        for example in examples:
            codes, grids = zip(*itertools.islice(coded, len(example.images)), strict=True)
            made.append(dataclasses.replace(example, codes=codes, grids=grids))
        return made, list(map(self.system.prompt, made))

    def _prompt(self, example: Example, featured: Example) -> ExampleRow:
        row = self.system.prompt(example)
        if featured is example:
            return row
        other = self.system.prompt(featured).views
        views = {name: p if self._gives_codes(name, p) else other[name] for name, p in row.views.items()}
        return dataclasses.replace(row, views=views)

    def _batch(self, examples: Sequence[Example], rows: Sequence[ExampleRow], decoding: Decoding) -> Batch:
        guided = rows_per_sample(decoding) == 2
        return self.place(prompt_batch([*rows, *map(self.system.unconditional, examples)] if guided else rows))

    def _tokens(self, seen: Sequence[Views], codes_alone: bool) -> list[VisualTokens]:
        """What a batch of images, given by their views, becomes, on the host."""
        pixels = self.place(self._pixels(seen, codes_alone))
        with self.on_mesh():
            tokens = jax.tree.map(loop.to_host, self._encode(self.params, pixels))
        return [jax.tree.map(lambda x, i=i: x[i], tokens) for i in range(len(seen))]

    def _pixels(self, seen: Sequence[Views], codes_alone: bool) -> dict[str, np.ndarray]:
        """Every view of each image, uint8 [batch, images of the view, H, W, 3]."""
        names = [name for name in seen[0] if not codes_alone or self._gives_codes(name, seen[0][name])]
        if not names:
            self._shapes(seen[0])  # raises the KeyError of the part that is not there
        for name in names:
            sizes = {views[name][0].shape[:2] for views in seen}
            if len(sizes) > 1:
                raise UserError(
                    f"images are seen at several sizes by the view {name!r}: {sorted(sizes)}; give them apart"
                )
        return {name: np.stack(_equally_many([views[name] for views in seen])) for name in names}

    def _gives_codes(self, view: str, pictures: Sequence[np.ndarray]) -> bool:
        shape = (len(pictures), *pictures[0].shape)
        if (view, shape) not in self._code_views:
            try:
                tokens = self._shapes({view: pictures})
            except KeyError:  # a run that trained the codes alone lacks the part that reads this view
                tokens = VisualTokens()
            self._code_views[view, shape] = tokens.codes is not None
        return self._code_views[view, shape]

    def _shapes(self, views: Mapping[str, Sequence[np.ndarray]]) -> VisualTokens:
        pixels = {k: jax.ShapeDtypeStruct((1, len(v), *v[0].shape), np.float32) for k, v in views.items()}
        return jax.eval_shape(self.system.encode_image, self.params, pixels)

    def _in_batches(self, items: Sequence[Any] | np.ndarray, work: Callable[[Any], Iterable[R]]) -> list[R]:
        """Runs `work` on batches of one size, the last filled up with its last item, whose results are dropped."""
        size, results = min(self.settings.batch_size, bucket(len(items))), []
        size += 0 if self.mesh is None else -size % batch_shards(self.mesh)
        for start in range(0, len(items), size):
            part = list(items[start : start + size])
            results += list(work(part + [part[-1]] * (size - len(part))))[: len(part)]
            if self.progress:
                self.progress(len(results), len(items))
        return results


def words_of(text: str) -> str:
    """An answer's text without the symbols of the images in it."""
    return re.sub(rf" ?{re.escape(IMAGE)}", "", text).strip()


def _sizes(views: Views) -> Hashable:
    return tuple((name, pictures[0].shape) for name, pictures in views.items())


def _groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """Indices of equal keys together, in the order in which they first occur."""
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return list(found.values())


def _unfinished(example: Example, decoding: Decoding) -> UserError:
    return UserError(f"{example.id}: no whole image within max_steps={decoding.max_steps} of the decode; raise it")


def _equally_many(pictures: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Black pictures behind those of an image that is seen as fewer than another one."""
    most = max(map(len, pictures))
    return [np.stack([*some, *[np.zeros_like(some[0])] * (most - len(some))]) for some in pictures]


def _question(index: int, image: np.ndarray, question: str) -> Example:
    text = question if IMAGE in question else IMAGE + question
    return Example(f"question {index}", (Turn("user", text),), (image,), Task.UNDERSTANDING)


def _seeds(seeds: Sequence[int] | int, count: int) -> Sequence[int]:
    seeds = range(seeds, seeds + count) if isinstance(seeds, int) else seeds
    if len(seeds) != count:
        raise UserError(f"{len(seeds)} seeds for {count} samples; give one each, or the first of consecutive ones")
    return seeds


def _one_each(images: Images, texts: Sequence[str], what: str) -> None:
    if len(images) != len(texts):
        raise UserError(f"{len(images)} images but {len(texts)} {what}; give one for each image")


def _override(
    decoding: Decoding,
    guidance: float | None,
    temperature: float | None,
    top_k: int | None,
    grid: tuple[int, int] | None,
    noise_steps: int | None,
) -> Decoding:
    given = {"temperature": temperature, "top_k": top_k}
    image = dataclasses.replace(decoding.image, **{name: value for name, value in given.items() if value is not None})
    if noise_steps is not None and noise_steps < 1:
        raise UserError(f"noise_steps: expected 1 or more, got {noise_steps}")
    whole = {"guidance": guidance, "grid": grid, "noise_steps": noise_steps}
    return dataclasses.replace(decoding, image=image, **{k: value for k, value in whole.items() if value is not None})
