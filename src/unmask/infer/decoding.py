"""The loop that unmasks pictures (model.md 6.3): commit a few codes a step, in a stratified order, with guidance.

The order is fixed before the first step and looks at no confidence, so logits are computed at the codes that are committed and nowhere else.

Shapes: B pictures, C codes of one picture, M codes committed in a step, V codes of the code book.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unmask.data.tokenize import Role
from unmask.diffusion.guidance import guide
from unmask.diffusion.schedules import CommitSchedule, commit_counts
from unmask.diffusion.unmasking import draw_codes, stratified_order
from unmask.errors import ConfigError
from unmask.model.packing import Packing
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted
from unmask.randomness import keyed_generator


@dataclass(frozen=True, kw_only=True)
class DrawingConfig:
    """How pictures are unmasked.

    Attributes:
        steps: forward passes; at most the number of codes is used.
        guidance: 1 is the plain model, more amplifies the prompt (the published `guidance_scale` plus one).
        temperature: of the draw of each code; 0 takes the likeliest.
        schedule, shift: how many codes are committed at each step.
        order_seed: of the stratified order; None gives every sample its own (42 is the published one).
        seed: of a sample's randomness, together with its number; never of its batch.
    """

    steps: int = 16
    guidance: float = 3.0
    temperature: float = 0.8
    schedule: CommitSchedule = "shift"
    shift: float = 3.0
    order_seed: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}: there must be at least one")
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature}: must be 0 or more")


@dataclass(frozen=True)
class DrawingPrompt:
    """One sample to draw: ids and roles [L] as `ChatTokenizer.encode` gives them, and its number, the key of its randomness."""

    ids_L: np.ndarray
    roles_L: np.ndarray
    number: int


Watch = Callable[[int, Tensor, Tensor], None]
"""Called after each step with its number, the codes [B, C] and which of them are committed [B, C]."""


@torch.no_grad()
def draw_pictures(
    model: UnifiedModel,
    prompts: Sequence[DrawingPrompt],
    grid: tuple[int, int],
    compress: bool,
    mask_token: int,
    config: DrawingConfig,
    watch: Watch | None = None,
) -> Tensor:
    """Codes [B, P, Q] of one picture for each prompt.

    Args:
        model: in eval mode.
        prompts: what to draw.
        grid: codes along each side (P, Q).
        compress: whether one gen token holds 2x2 codes.
        mask_token: id that stands for a dropped prompt on the unconditional side.
        config: how to unmask.
        watch: sees every step.
    """
    device = next(model.parameters()).device
    num_codes, book = grid[0] * grid[1], model.config.image_tokenizer.code_book
    if grid[0] != grid[1]:
        raise ConfigError(f"the stratified order needs a square picture, not {grid[1]}x{grid[0]} codes")
    guided = config.guidance != 1.0
    text_ids, packing = _conditions(prompts, mask_token, guided, device)
    codes_BC = torch.full((len(prompts), num_codes), book.mask, device=device)
    orders_BC = torch.stack([_order(prompt, grid[0], config) for prompt in prompts]).to(device)
    noise = [keyed_generator(config.seed, prompt.number, "codes") for prompt in prompts]
    offsets_B1 = torch.arange(len(prompts), device=device)[:, None] * num_codes
    done = 0
    for step, count in enumerate(commit_counts(num_codes, config.steps, config.schedule, config.shift)):
        places_BK = orders_BC[:, done : done + count]
        wanted = (offsets_B1 + places_BK).flatten()
        codes_BPQ = codes_BC.view(-1, *grid)
        if guided:
            wanted, codes_BPQ = torch.cat([wanted, wanted + codes_BC.numel()]), codes_BPQ.repeat(2, 1, 1)
        logits = model(ModelInputs(text_ids, codes_BPQ, packing, compress), Wanted(None, wanted)).codes
        assert logits is not None
        if guided:
            conditional, unconditional = logits.float().chunk(2)
            logits = guide(conditional, unconditional, config.guidance)
        uniforms = None
        if config.temperature > 0:
            drawn = [rng.random((count, book.num_codes), dtype=np.float32) for rng in noise]
            uniforms = torch.from_numpy(np.concatenate(drawn)).to(device)
        chosen = draw_codes(logits, uniforms, config.temperature)
        codes_BC.scatter_(1, places_BK, chosen.view(places_BK.shape))
        done += count
        if watch is not None:
            watch(step, codes_BC, codes_BC != book.mask)
    return codes_BC.view(-1, *grid)


def _order(prompt: DrawingPrompt, side: int, config: DrawingConfig) -> Tensor:
    seed = config.order_seed
    if seed is None:
        seed = int(keyed_generator(config.seed, prompt.number, "order").integers(2**31))
    return torch.tensor(stratified_order(side, seed))


def _conditions(prompts: Sequence[DrawingPrompt], mask_token: int, guided: bool, device: torch.device) -> tuple[Tensor, Packing]:
    """Text ids and packing of the conditional samples and, behind them, of the same with their prompt dropped as in training."""
    ids, pictures = [], []
    for dropped in (False, True) if guided else (False,):
        for prompt in prompts:
            text = prompt.ids_L.astype(np.int64)
            if dropped:
                text = np.where(prompt.roles_L == Role.PROMPT, mask_token, text)
            ids.append(torch.from_numpy(text[prompt.roles_L != Role.PICTURE]))
            pictures.append(torch.from_numpy(prompt.roles_L == Role.PICTURE))
    return torch.cat(ids).to(device), Packing.build(pictures).to(device)
