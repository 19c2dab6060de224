"""What a decode may be asked."""

import math

import pytest

from unitok_jax.errors import UserError
from unitok_jax.sampling.settings import Decoding, Sampling


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        (Sampling, {"temperature": -1.0}, "temperature -1.0; expected 0 or more"),
        (Sampling, {"temperature": math.nan}, "temperature nan"),
        (Sampling, {"top_k": -5}, "top_k -5; expected 0"),
        (Sampling, {"top_p": 0.0}, "top_p 0.0; expected more than 0"),
        (Sampling, {"top_p": 1.5}, "top_p 1.5"),
        (Decoding, {"guidance": math.nan}, "guidance nan"),
        (Decoding, {"guidance": -2.0}, "guidance -2.0"),
        (Decoding, {"max_steps": 0}, "max_steps 0; expected 1 or more"),
        (Decoding, {"noise_steps": 0}, "noise_steps 0"),
    ],
)
def test_nonsense_is_refused(kind, asked, message):
    with pytest.raises(UserError, match=message):
        kind(**asked)
