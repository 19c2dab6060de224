"""Weight rules of `discriminators`. Parameters and running statistics are imported apart, each with its own table."""

from unitok_jax.backbones.discriminators import DiscriminatorSettings
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV

COUNTER = {r"main\.\d+\.num_batches_tracked": "counts batches; nothing reads it at momentum 0.1"}
RUNNING = {r"main\.\d+\.running_(mean|var)": "running statistics, see `statistics_table`"}


def discriminator_table(settings: DiscriminatorSettings) -> Table:
    """Rules for the parameters of a discriminator of this kind, with the reference's names."""
    if settings.kind == "patch":
        return _patch(settings)
    return _resnet(settings) if settings.kind == "resnet" else _downsampling(settings)


def statistics_table(settings: DiscriminatorSettings) -> Table:
    """Rules for the running statistics of kind ``patch`` with batch norm."""
    rules = []
    for number in range(1, settings.layers + 1):
        key = f"main.{3 * number}"
        rules += [Rule(f"{key}.running_mean", f"norm_{number}/mean"), Rule(f"{key}.running_var", f"norm_{number}/var")]
    return Table(tuple(rules), {**COUNTER, r"main\.\d+\.(weight|bias)": "parameters, see `discriminator_table`"})


def _patch(settings: DiscriminatorSettings) -> Table:
    rules = [*_conv("main.0", "conv_0"), *_conv(f"main.{3 * settings.layers + 2}", "conv_out")]
    for number in range(1, settings.layers + 1):
        rules += _conv(f"main.{3 * number - 1}", f"conv_{number}", bias=settings.norm == "group")
        rules += _norm(f"main.{3 * number}", f"norm_{number}")
    return Table(tuple(rules), {**COUNTER, **RUNNING})


def _downsampling(settings: DiscriminatorSettings) -> Table:
    rules = [*_conv("block_in.0", "conv_in"), *_conv("to_logits.0", "conv_mid"), *_conv("to_logits.2", "conv_out")]
    for number in range(settings.layers):
        rules += _conv(f"blocks.{number}.0", f"conv_{number}") + _norm(f"blocks.{number}.2", f"norm_{number}")
    return Table(tuple(rules), {r"blocks\.\d+\.1\.kernel": "the blur's fixed kernel"})


def _resnet(settings: DiscriminatorSettings) -> Table:
    rules = [*_conv("main.0", "conv_in"), *_conv(f"main.{settings.layers + 2}", "conv_out")]
    for number in range(1, settings.layers + 1):
        key, ours = f"main.{number + 1}", f"block_{number}"
        rules += _norm(f"{key}.norm1", f"{ours}/norm") + _conv(f"{key}.conv1", f"{ours}/conv")
        if _widens(settings, number):
            rules += _conv(f"{key}.nin_shortcut", f"{ours}/shortcut")
    return Table(tuple(rules))


def _widens(settings: DiscriminatorSettings, number: int) -> bool:
    return min(2**number, 8) != min(2 ** (number - 1), 8)


def _conv(upstream: str, ours: str, bias: bool = True) -> list[Rule]:
    kernel = Rule(f"{upstream}.weight", f"{ours}/kernel", CONV)
    return [kernel, Rule(f"{upstream}.bias", f"{ours}/bias")] if bias else [kernel]


def _norm(upstream: str, ours: str) -> list[Rule]:
    return [Rule(f"{upstream}.weight", f"{ours}/scale"), Rule(f"{upstream}.bias", f"{ours}/bias")]
