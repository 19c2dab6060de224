"""BitDance's class-conditional generator, several tokens at a time."""

import dataclasses

from harness import Mutation
from uniwetok_c2i import check
from uniwetok_models import zeroed

__all__ = ["MUTATIONS", "check"]

MUTATIONS = {
    "c2i_parallel_patch": (
        Mutation("raster order", config=lambda c: dataclasses.replace(c, order="raster")),
        Mutation("no queries", params=zeroed("query_token")),
    ),
}
