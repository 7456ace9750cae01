"""How the codes of a picture are unmasked: the settings that a user gives and a preset keeps (model.md 6.3). `decoding` acts on them."""

from dataclasses import dataclass

from unmask.diffusion.schedules import CommitSchedule, TemperatureSchedule
from unmask.diffusion.unmasking import CODE_ORDERS, CodeOrder
from unmask.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class UnmaskingConfig:
    """How the codes of a picture are unmasked.

    Attributes:
        steps: forward passes; at most the number of codes is used.
        guidance_interval: first and last share of the steps between which guidance is applied.
        temperature: of the draw of each code; 0 takes the likeliest.
        top_k, top_p: only the likeliest so many codes are drawn, and of those the fewest that together have this probability; None: all.
        schedule, shift: how many codes are committed at each step; None splits them equally.
        order: which codes come first.
        order_temperature: how much chance there is in an order by confidence; 0 takes the surest.
        order_schedule, order_minimum: how it falls over the steps.
        order_seed: of a fixed order; None gives every sample its own (42 is the published one).
        seed: of a sample's randomness, together with its number; never of its batch.
        refinement: rounds after the last step, each of which masks some codes at random and draws them anew, at next to no temperature.
        refinement_share: of the codes that are drawn, masked in each round.
        prompt_cache: run prompt and references at every so many steps only, and let the codes see them as they were then: faster, and no
            longer the same picture; 1 is exact.
        published_words: whether to ask, and to leave out for guidance, as the published inference code does, which is not as it was trained
            (`data/published_strings.py`).
    """

    steps: int = 64
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    temperature: float = 0.3
    top_k: int | None = None
    top_p: float | None = None
    schedule: CommitSchedule | None = "shift"
    shift: float = 3.0
    order: CodeOrder = "stratified"
    order_temperature: float = 1.0
    order_schedule: TemperatureSchedule = "constant"
    order_minimum: float = 0.01
    order_seed: int | None = None
    seed: int = 0
    refinement: int = 0
    refinement_share: float = 0.01
    prompt_cache: int = 1
    published_words: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}: there must be at least one")
        if self.prompt_cache < 1:
            raise ConfigError(f"prompt_cache={self.prompt_cache}: must be 1 or more", fix="1 runs the prompt at every step")
        for name in ("temperature", "order_temperature", "refinement"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k}: must be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: is a probability, above 0, at most 1")
        if not 0 < self.refinement_share <= 1:
            raise ConfigError(f"refinement_share={self.refinement_share}: is a share, above 0, at most 1")
        if self.order not in CODE_ORDERS:
            raise ConfigError(f"unknown order '{self.order}'", fix=did_you_mean(self.order, CODE_ORDERS))
        first, last = self.guidance_interval
        if not 0 <= first <= last <= 1:
            raise ConfigError(
                f"guidance_interval={self.guidance_interval}: two shares of the steps, 0 to 1, the first not the larger"
            )

    @property
    def is_order_fixed(self) -> bool:
        """Whether the order is known before the first step."""
        return self.order in {"stratified", "halton"}


@dataclass(frozen=True, kw_only=True)
class DrawingConfig(UnmaskingConfig):
    """How pictures are drawn from words.

    Attributes:
        guidance: 1 is the plain model, more amplifies the prompt (the published `guidance_scale` plus one).
    """

    guidance: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance < 0:
            raise ConfigError(f"guidance={self.guidance}: must be 0 or more", fix="1 is the plain model")
