"""Golden kinds whose system or stage is not built yet, each with what it waits for.

They are reported as skipped, by name. A kind that is neither here nor in ``handlers/`` fails. When a handler lands, its
line goes (a test sees to that); when the last one lands, so does this file.
"""

_DUALTOKEN = "DualToken is not built yet"

NOT_BUILT: dict[tuple[str, str], str] = {
    **{
        ("dualtoken", kind): _DUALTOKEN
        for kind in (
            "mllm_design",
        )
    },
}
