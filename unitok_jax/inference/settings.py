"""`config.inference`: how a trained model is used unless the call says otherwise."""

import dataclasses
from collections.abc import Mapping

from unitok_jax.data.tasks import TASKS
from unitok_jax.errors import UserError
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling
from unitok_jax.settings import near

READ = Decoding(text=GREEDY, max_steps=512)
DRAW = Decoding(text=Sampling(top_k=5), image=Sampling(top_k=4000), guidance=3.0, max_steps=1536)

CHAT = Decoding(text=Sampling(top_k=5), image=Sampling(top_k=2000), max_steps=2048)


@dataclasses.dataclass(frozen=True)
class InferenceSettings:
    """Defaults of a `Pipeline`.

    Attributes:
        read: the decode that answers about pictures.
        draw: the decode that draws pictures; the defaults are the released UniToken's.
        chat: the decode of conversations, which may write, draw, or both in one answer.
        prompts: by task (``caption``, ``question``, ``generate``, ``edit``) the prompt around what the caller says,
            with ``{question}``, ``{caption}`` and ``{instruction}``; a task that is not named takes the first of
            `data.tasks.TASKS`.
        batch_size: samples decoded at once.
    """

    read: Decoding = READ
    draw: Decoding = DRAW
    chat: Decoding = CHAT
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch_size: int = 32

    def prompt(self, task: str) -> str:
        """The prompt around a task.

        Raises:
            UserError: if `prompts` names a task that does not exist.
        """
        for name in self.prompts:
            if name not in TASKS:
                raise UserError(f"config.inference.prompts.{name}: no such task.{near(name, TASKS)}")
        return self.prompts.get(task) or TASKS[task][1][0]
