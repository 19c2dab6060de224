"""The options of the tokenizer's training stage."""

import dataclasses

from unitok_jax.backbones import vgg16
from unitok_jax.backbones.bitdance import BitDanceConfig
from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.backbones.pool_heads import PoolHeadConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.errors import UserError
from unitok_jax.systems.adversary import AdversarySettings

# BitDance-T: 8.6 M parameters, as the paper says of it; its layout is not published and this one is ours.
BITDANCE_T = BitDanceConfig(
    width=320, layers=4, heads=5, channels=128, grid=(8, 8), classes=0, head=FlowHeadConfig("mlp", 320, 4, 1)
)


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """Pre-Post Distillation (arXiv 2602.14178, section 3.1). The paper gives no weights; these are ours.

    Attributes:
        teacher: the frozen tower, part ``vit``: SigLIP2 SO400M/16 at 384 pixels by default, or any other of ours.
        pool: the heads that make an embedding of the tokens; as wide as the teacher.
        pre, post: weights of the loss before and after quantisation; 0 leaves one out.
        weight: of both.
    """

    teacher: SiglipConfig = dataclasses.field(default_factory=lambda: SiglipConfig(patch_size=16, image_size=384))
    pool: PoolHeadConfig = dataclasses.field(default_factory=PoolHeadConfig)
    pre: float = 1.0
    post: float = 1.0
    weight: float = 1.0

    def __post_init__(self):
        if self.pool.width != self.teacher.width:
            raise UserError(
                f"distill: the pooling heads are {self.pool.width} wide and the teacher {self.teacher.width}; "
                "they must be equal (stage_options.distill.pool.width)"
            )
        if not self.teacher.pooling:
            raise UserError("distill.teacher.pooling: False; the teacher's embedding is what its pooling head makes")


@dataclasses.dataclass(frozen=True)
class PriorSettings:
    """The Generative-Aware Prior (section 3.1); the weight is ours.

    Attributes:
        network: the autoregressive prior.
        weight: of its loss.
        stop_target: hold the target fixed, so that the gradient reaches the encoder as context and input alone.
    """

    network: BitDanceConfig = BITDANCE_T
    weight: float = 1.0
    stop_target: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerOptions:
    """`config.stage_options` of stage ``tokenizer``; the defaults are WeTok's weights and UniWeTok's changes to them.

    Attributes:
        sizes: (height, width) of the pictures, all trained in every step; () is the model's default size. Every
            example is shown at each of them.
        l1: weight of the absolute error.
        perceptual: weight of LPIPS, whose parts ``vgg`` and ``lpips`` come from published files.
        entropy: weight of token entropy minus codebook entropy.
        sample_weight, batch_weight: of the two in it.
        sum_groups: token entropy summed over the groups (paper) instead of averaged (code).
        entropy_shards: parts of the batch with a codebook histogram of their own; see `binary.codebook_entropy`.
        enlarge, enlarge_steps: the entropy's weight falls from ``1 + enlarge`` times to once over so many steps.
        commitment: weight of the commitment loss; 0 in UniWeTok, 0.25 in WeTok.
        adversary: discriminator and LeCam; None trains without.
        distill: Pre-Post Distillation; None trains without.
        prior: Generative-Aware Prior; None trains without.
        decoder_only: train the decoder alone, by reconstruction and adversary.
        vgg_widths: channels of LPIPS's network; others than the published ones for tests alone.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    l1: float = 1.0
    perceptual: float = 1.0
    entropy: float = 0.1
    sample_weight: float = 1.0
    batch_weight: float = 1.0
    sum_groups: bool = False
    entropy_shards: int = 1
    enlarge: float = 0.0
    enlarge_steps: int = 2000
    commitment: float = 0.0
    adversary: AdversarySettings | None = None
    distill: DistillSettings | None = None
    prior: PriorSettings | None = None
    decoder_only: bool = False
    vgg_widths: tuple[int, ...] = vgg16.WIDTHS

    @property
    def couples(self) -> bool:
        """Whether the loss couples the pictures of a batch."""
        return (self.entropy > 0 and not self.decoder_only) or (self.adversary is not None and self.adversary.couples)

    @property
    def trains(self) -> tuple[str, ...]:
        """Regexes of what the generator's phase trains."""
        if self.decoder_only:
            return ("^vae/decoder/",)
        return ("^vae/", *(["^pools/"] if self.distill else []), *(["^prior/"] if self.prior else []))
