"""`unitok serve`."""

import argparse

from unitok_jax.web.page import serve as open_page


def serve(args: argparse.Namespace) -> None:
    """Opens the page and prints its address; ends when it is interrupted."""
    open_page(args.workdir, args.host, args.port, args.queue, args.mesh)
