"""A training step of the model, forward and backward: ours packed, ours padded, and the published way of computing.

  taskset -c 1 nice python -m benchmarks.model                    both sizes on one core: time, memory, operations
  python -m benchmarks.model --sizes 100m --device cuda --dtype bf16
  python -m benchmarks.model --stack 4 --device cuda --dtype bf16 --peak-tflops 989    four layers of the 8B shape: share of the peak

The batch mixes text-to-image, understanding and grounding, with lengths in the proportions of the published 1024 px stage. All cases have
the same weights and the same targets, and their losses are compared. Times are taken in one process, case after case, round after round, so
that a ratio is one of neighbours in time; memory in a fresh process for each case, as the high-water mark above what the imports and a
warm-up took.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.published_rendering import IGNORED, PaddedBatch, PublishedRendering, eager_vision
from unmask.diffusion.losses import head_cross_entropy
from unmask.model.config import ComputeConfig, ImageTokenizerConfig, ModelConfig, VisionConfig
from unmask.model.packing import Focus, LayerPlan, Packing
from unmask.model.transformer import Block, Rotary, Streams
from unmask.model.unified import ModelInputs, Sight, UnifiedModel, Wanted, code_tokens, count_parameters

CASES = ("published", "padded", "packed")
VQ = ImageTokenizerConfig(num_codes=8192, block_channels=(1, 1), layers_per_block=1, latent_channels=1, norm_groups=1)
LARGE = ModelConfig(
    name="100m", vocab_size=20000, text_width=640, gen_width=320, text_mlp_width=1920, gen_mlp_width=1280,
    num_layers=10, num_joint_layers=5, num_heads=10, tokenizer="none", image_tokenizer=VQ,
    vision=VisionConfig(image_size=168, patch_size=14, width=192, num_layers=4, num_heads=4, mlp_width=718),
)  # fmt: skip
TINY = ModelConfig(
    name="tiny", vocab_size=2065, text_width=160, gen_width=128, text_mlp_width=160, gen_mlp_width=320,
    num_layers=5, num_joint_layers=4, num_heads=5, tokenizer="none", image_tokenizer=replace(VQ, num_codes=1024),
    vision=VisionConfig(image_size=84, patch_size=14, width=48, num_layers=2, num_heads=2, mlp_width=180),
)  # fmt: skip
EIGHT_B = replace(
    LARGE, name="8b", text_width=4096, gen_width=2048, text_mlp_width=12288, gen_mlp_width=8192, num_layers=32,
    num_joint_layers=17, num_heads=32, vision=None,
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A model and the batch that it is measured on.

    Attributes:
        config: of the model.
        side: codes along one side of a picture.
        drawn: text tokens of the samples that draw; three of them are the answer.
        read: rows and columns of tiles, question and answer tokens of the samples that read or point.
    """

    config: ModelConfig
    side: int
    drawn: tuple[int, ...]
    read: tuple[tuple[int, int, int, int], ...]


SIZES = {
    "tiny": Size(TINY, 16, (32, 48, 40, 26) * 2, ((2, 2, 24, 30), (1, 2, 20, 90), (2, 2, 16, 8), (1, 3, 16, 14)) * 2),
    "100m": Size(LARGE, 32, (70, 110, 90, 60), ((2, 2, 40, 60), (1, 2, 30, 180), (2, 2, 30, 12), (1, 3, 30, 24))),
}


@dataclass(frozen=True)
class Made:
    """One batch in the three forms, with its targets."""

    packed: ModelInputs
    packed_wanted: Wanted
    padded: ModelInputs
    padded_wanted: Wanted
    published: PaddedBatch
    text_targets: Tensor
    code_targets: Tensor


def make(size: Size, device: torch.device) -> Made:
    """The batch: random ids, codes, tiles and masks; mean mask ratios are those of the cosine policy."""
    g = torch.Generator().manual_seed(0)
    config, tokens = size.config, (size.side // 2) ** 2
    assert config.vision is not None
    side, per_tile = config.vision.pooled, config.vision.pooled**2
    is_gen, ids, masked, features, places = [], [], [], [], []
    tiles, total = [], sum(1 + rows * columns for rows, columns, _, _ in size.read)
    for length in size.drawn:
        prompt = length - 3
        is_gen.append(torch.cat([torch.zeros(prompt), torch.ones(tokens), torch.zeros(3)]).bool())
        masked.append(torch.cat([torch.zeros(prompt + tokens), torch.tensor([1.0, 0.0, 1.0])]).bool())
        places.append(torch.zeros(0, dtype=torch.long))
        features.append(torch.zeros(0, dtype=torch.long))
    for rows, columns, question, answer in size.read:
        first = sum(map(len, tiles)) * per_tile
        grid = torch.arange(rows * columns * per_tile).view(rows, columns, side, side).transpose(1, 2).reshape(rows * side, -1)
        grid = torch.cat([grid + per_tile + first, torch.full((rows * side, 1), total * per_tile)], dim=1)
        features.append(torch.cat([torch.arange(per_tile) + first, grid.flatten()]))
        tiles.append(
            torch.randint(0, 256, (1 + rows * columns, *[config.vision.image_size] * 2, 3), generator=g, dtype=torch.uint8)
        )
        length = len(features[-1]) + question + answer
        is_gen.append(torch.zeros(length).bool())
        places.append(torch.arange(len(features[-1])) + 5)
        masked.append(torch.cat([torch.zeros(length - answer), (torch.rand(answer, generator=g) < 0.64).float()]).bool())
    ids = [torch.randint(0, config.vocab_size, (len(each),), generator=g) for each in is_gen]
    targets = torch.randint(0, config.vocab_size, (sum(int(m.sum()) for m in masked),), generator=g)
    codes = torch.randint(0, config.image_tokenizer.num_codes, (len(size.drawn), size.side, size.side), generator=g)
    code_mask = torch.rand(codes.shape, generator=g) < 0.64
    pictures = (codes, code_mask)
    seen = (torch.cat(tiles), features, places)
    packed, wanted = _ours(size, is_gen, ids, masked, pictures, seen)
    longest = max(map(len, is_gen))
    padding = [torch.zeros(longest - len(each), dtype=torch.long) for each in is_gen]
    published = _published(size, (is_gen, ids, masked, targets), padding, pictures, seen)
    return Made(
        *(_to(each, device) for each in (packed, wanted)),
        *(_to(each, device) for each in _padded(size, is_gen, ids, masked, padding, pictures, seen)),
        _to(published, device),
        targets.to(device),
        codes[code_mask].to(device),
    )


def _ours(size, is_gen, ids, masked, pictures, seen, focused=True):  # type: ignore[no-untyped-def]
    codes, code_mask = pictures
    tiles, features, places = seen
    gen = torch.cat(is_gen)
    text_at = torch.cat(masked)[~gen].nonzero()[:, 0]
    code_at = code_mask.flatten().nonzero()[:, 0]
    starts = torch.tensor([0, *[len(each) for each in is_gen][:-1]]).cumsum(0)
    rows = torch.cat([place + start for place, start in zip(places, starts, strict=True)])
    focus = Focus(text_at, code_tokens(code_at, codes.shape, True, None)[0].unique()) if focused else None
    shown = codes.masked_fill(code_mask, size.config.image_tokenizer.code_book.mask)
    sight = Sight(tiles, torch.cat(features), (~gen).cumsum(0)[rows] - 1)
    return ModelInputs(torch.cat(ids)[~gen], shown, Packing.build(is_gen, focus), True, None, sight), Wanted(text_at, code_at)


def _padded(size, is_gen, ids, masked, padding, pictures, seen):  # type: ignore[no-untyped-def]
    """Ours with every sample as long as the longest: padding is text of a sample of its own, and all text logits are wanted."""
    tiles, features, places = seen
    both = [
        [x for pair in zip(real, [pad.to(real[0].dtype) for pad in padding], strict=True) for x in pair]
        for real in (is_gen, ids, masked)
    ]
    none = torch.zeros(0, dtype=torch.long)
    spread = [[x for each in real for x in (each, none)] for real in (features, places)]
    kept = [number for number, each in enumerate(both[0]) if len(each)]
    both, spread = ([[x[n] for n in kept] for x in group] for group in (both, spread))
    inputs, wanted = _ours(size, *both, pictures, (tiles, *spread), focused=False)
    wanted_text = torch.arange(len(inputs.text_ids_T))
    return inputs, Wanted(wanted_text, wanted.codes_M)


def _published(size, text, padding, pictures, seen) -> PaddedBatch:  # type: ignore[no-untyped-def]
    is_gen, ids, masked, targets = text
    codes, code_mask = pictures
    tiles, features, places = seen

    def rows(parts: list[Tensor], value: int = 0) -> Tensor:
        return torch.stack(
            [torch.cat([part, torch.full_like(pad, value).to(part.dtype)]) for part, pad in zip(parts, padding, strict=True)]
        )

    labels = torch.full((len(ids), len(ids[0]) + len(padding[0])), IGNORED)
    labels[rows(masked)] = targets
    black = torch.zeros_like(tiles[:1]).expand(len(size.drawn), -1, -1, -1)
    newline = len(tiles) * size.config.vision.pooled**2
    feature = torch.cat(features)
    feature = torch.where(feature == newline, newline + len(black) * size.config.vision.pooled**2, feature)
    return PaddedBatch(
        rows(ids),
        rows(is_gen),
        rows([torch.ones_like(each) for each in is_gen]),
        labels,
        codes.masked_fill(code_mask, size.config.image_tokenizer.code_book.mask),
        codes.masked_fill(~code_mask, IGNORED),
        torch.cat([tiles, black]),
        feature,
        torch.cat([place + number * labels.shape[1] for number, place in enumerate(places)]),
        True,
    )


def _to(thing, device: torch.device):  # type: ignore[no-untyped-def]
    if isinstance(thing, Tensor):
        return thing.to(device)
    if isinstance(thing, Packing):
        return thing.to(device)
    if hasattr(thing, "__dataclass_fields__"):
        return replace(thing, **{name: _to(getattr(thing, name), device) for name in thing.__dataclass_fields__})
    return thing


def build(config: ModelConfig, device: torch.device, dtype: torch.dtype, compute: ComputeConfig) -> UnifiedModel:
    model = UnifiedModel(config, compute)
    model.initialise(torch.Generator().manual_seed(0))
    return model.to(device, dtype)


def case_loss(case: str, model: UnifiedModel, made: Made) -> Tensor:
    """Mean text loss + mean code loss, the way of one case."""
    if case == "published":
        return PublishedRendering(model).loss(made.published)
    config, rows = model.config, model.compute.rows
    if case == "padded":
        states = model.states(made.padded, made.padded_wanted)
        assert states.text is not None and states.codes is not None
        logits = model.text_head(states.text)
        labels = made.published.labels_BL[~made.published.is_gen_BL]
        text = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
        return text + F.cross_entropy(model.code_head.output(states.codes).float(), made.code_targets)
    states = model.states(made.packed, made.packed_wanted)
    assert states.text is not None and states.codes is not None
    text = head_cross_entropy(model.text_head, states.text, made.text_targets, rows=rows(config.vocab_size)).mean
    codes = head_cross_entropy(
        model.code_head.output, states.codes, made.code_targets, rows=rows(config.image_tokenizer.num_codes)
    ).mean
    return text + codes


def step(case: str, model: UnifiedModel, made: Made) -> float:
    """Forward and backward; the loss."""
    model.zero_grad(set_to_none=True)
    loss = case_loss(case, model, made)
    loss.backward()
    return float(loss.detach())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> Callable[[], float]:
    """Measures FLOP/s of a product of square matrices; call it between the cases."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def measure() -> float:
        seconds = clock(lambda: a @ b, device)
        return float(2 * side**3 / seconds)

    return measure


def clock(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of CPU time on a CPU, which other processes do not lengthen as they do wall time; of wall time elsewhere."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def operations(size: Size, made: Made) -> dict[str, float]:
    """FLOP of a forward pass of ours packed by part: two for each multiplication of a matrix product, nothing else."""
    config, parts = (
        size.config,
        dict.fromkeys(("text tower", "gen tower", "attention", "text head", "code head", "code embedding", "vision"), 0),
    )
    inner, plans = config.num_heads * config.head_width, made.packed.packing.whole
    text, gen = len(made.packed.text_ids_T), len(made.packed.packing.gen_position_G)
    for number in range(config.num_layers):
        plan = plans.of(number, config.num_joint_layers, config.num_layers)
        asking = (text if plan.text_kept is None else len(plan.text_kept), gen if plan.gen_kept is None else len(plan.gen_kept))
        for tower, rows, kept, width, mlp in (
            ("text tower", text, asking[0], config.text_width, config.text_mlp_width),
            ("gen tower", gen, asking[1], config.gen_width, config.gen_mlp_width),
        ):
            parts[tower] += 2 * (rows * 2 * width * inner + kept * (2 * width * inner + 3 * width * mlp))
        parts["attention"] += sum(4 * inner * pair for pair in _pairs(plan))
        text, gen = asking
    tokens = int(made.packed.codes_BPQ.numel()) // 4
    wide, vision = config.gen_width**2, config.vision
    assert vision is not None and made.packed.sight is not None
    parts["text head"] = 2 * len(made.text_targets) * config.text_width * config.vocab_size
    targets = len(made.code_targets)
    parts["code head"] = 2 * (gen * 4 * wide + targets * (2 * wide + config.gen_width * config.image_tokenizer.num_codes))
    parts["code embedding"] = 2 * tokens * (4 * wide + 4 * wide + wide)
    tiles, patches = len(made.packed.sight.pixels_NSS3), (vision.image_size // vision.patch_size) ** 2
    layer = 2 * patches * (4 * vision.width**2 + 2 * vision.width * vision.mlp_width) + 4 * patches**2 * vision.width
    pooled = vision.pooled**2 * (4 * vision.width**2 + vision.width * config.text_width + config.text_width**2)
    parts["vision"] = tiles * (vision.num_layers * layer + 2 * patches * 3 * vision.patch_size**2 * vision.width + 2 * pooled)
    return {name: float(value) for name, value in parts.items()}


def _pairs(plan: LayerPlan) -> list[int]:
    """Queries times keys of each sample."""
    scopes = [scope for scope in (plan.joint, plan.text, plan.gen) if scope is not None]
    return [q * k for scope in scopes for q, k in zip(scope.queries.lengths, scope.keys.lengths, strict=True)]


def counted(case: str, model: UnifiedModel, made: Made) -> tuple[float, float]:
    """The loss of a step, and its FLOP as torch counts the operations that are really run, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loss = step(case, model, made)
    return loss, float(counter.get_total_flops())


def measure_time(options: argparse.Namespace, name: str) -> dict[str, object]:
    """All cases of a size in this process, one after another, round after round."""
    device, dtype, size = torch.device(options.device), getattr(torch, options.dtype), SIZES[name]
    made, compute = make(size, device), ComputeConfig(activation_checkpointing=options.checkpointing)
    ours, theirs = (build(size.config, device, dtype, compute) for _ in range(2))
    eager_vision(theirs.vision)
    models = {"published": theirs, "padded": ours, "packed": ours}
    first = {case: counted(case, models[case], made) for case in CASES}
    rate, rates = matmul_rate(device, dtype), []
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            seconds[case].append(clock(lambda case=case: step(case, models[case], made), device))  # type: ignore[misc]
        rates.append(max(rate() for _ in range(3)))
    return {
        "parameters": count_parameters(ours),
        "tokens": int(made.published.is_real_BL.sum()),
        "positions": made.published.is_real_BL.numel(),
        "losses": {case: loss for case, (loss, _) in first.items()},
        "seconds": seconds,
        "rate": rates,
        "counted": {case: flop for case, (_, flop) in first.items()},
        "parts": operations(size, made),
    }


def measure_memory(options: argparse.Namespace, name: str, case: str) -> dict[str, object]:
    """High-water mark of a step of one case, above what the imports took; weights and gradients are in it."""
    device, dtype, size = torch.device(options.device), getattr(torch, options.dtype), SIZES[name]
    import unmask.model.vision  # noqa: F401  (imports transformers, which is no part of a step)

    _warm_up()
    before = _high_water()
    model = build(size.config, device, dtype, ComputeConfig(activation_checkpointing=options.checkpointing))
    if case == "published":
        eager_vision(model.vision)
    made = make(size, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step(case, model, made)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _high_water() - before
    return {"mb": peak / 1e6}


def _warm_up() -> None:
    """Let the libraries take what they take once, at the first product, convolution and backward pass."""
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    h = F.layer_norm(F.conv2d(x, torch.randn(8, 3, 2, 2, requires_grad=True), stride=2).flatten(2).mT, (8,))
    h = F.scaled_dot_product_attention(h[None], h[None], h[None]) @ torch.randn(8, 8, requires_grad=True)
    F.cross_entropy(h.flatten(0, 2), torch.zeros(64, dtype=torch.long)).backward()


def _high_water() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_stack(options: argparse.Namespace) -> dict[str, object]:
    """Layers of the 8B shape on packed tokens, forward and backward: share of the peak that matrix products and attention reach."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    config = replace(EIGHT_B, num_layers=options.stack, num_joint_layers=max(1, round(options.stack * 17 / 32)))
    with torch.device(device):
        blocks = [Block(config).to(dtype) for _ in range(config.num_layers)]
    rows = [
        torch.cat([torch.zeros(text), torch.ones(gen)]).bool() for text, gen in ((100, 1024), (1000, 0), (150, 1024), (900, 0))
    ]
    packing = Packing.build(rows).to(device)
    text, gen = len(packing.text_position_T), len(packing.gen_position_G)
    streams = Streams(
        torch.randn(text, config.text_width, device=device, dtype=dtype, requires_grad=True),
        torch.randn(gen, config.gen_width, device=device, dtype=dtype, requires_grad=True),
    )
    from unmask.model.attention import rotary_table

    tables = (
        rotary_table(each, config.head_width, config.rope_theta) for each in (packing.text_position_T, packing.gen_position_G)
    )
    rotary = Rotary(*tables)

    def run() -> None:
        h = streams
        for number, block in enumerate(blocks):
            h = block(h, packing.whole.of(number, config.num_joint_layers, config.num_layers), rotary)
        (h.text.float().sum() + h.gen.float().sum()).backward()

    inner, flop = config.num_heads * config.head_width, 0
    for number in range(config.num_layers):
        flop += 4 * inner * sum(_pairs(packing.whole.of(number, config.num_joint_layers, config.num_layers)))
        flop += 2 * text * config.text_width * (4 * inner + 3 * config.text_mlp_width)
        flop += 2 * gen * config.gen_width * (4 * inner + 3 * config.gen_mlp_width)
    run()
    seconds = min(clock(run, device) for _ in range(options.rounds))
    rate = max(matmul_rate(device, dtype)() for _ in range(3))
    peak = options.peak_tflops * 1e12 if options.peak_tflops else rate
    memory = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else _high_water() / 1e6
    return {
        "tokens": text + gen,
        "seconds": seconds,
        "achieved": 3 * flop / seconds,
        "matmul": rate,
        "share": 3 * flop / seconds / peak,
        "mb": memory,
    }


def _fresh(options: argparse.Namespace, *more: str) -> dict[str, object]:
    """Run this file once more in a process of its own; what it printed."""
    same = [
        "--device",
        options.device,
        "--dtype",
        options.dtype,
        "--rounds",
        str(options.rounds),
        "--checkpointing",
        options.checkpointing,
    ]
    done = subprocess.run([sys.executable, "-m", "benchmarks.model", *same, *more], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(options: argparse.Namespace, name: str) -> list[str]:
    """Markdown of one size."""
    timed = _fresh(options, "--only", "time", "--sizes", name)
    memory = {case: _fresh(options, "--only", case, "--sizes", name)["mb"] for case in CASES}
    seconds, rate = timed["seconds"], statistics.median(timed["rate"])  # type: ignore[arg-type]
    counts, losses, parts = timed["counted"], timed["losses"], timed["parts"]
    lines = [
        f"## {name}: {timed['parameters'] / 1e6:.1f} M parameters, {timed['tokens']} tokens, {timed['positions']} positions with padding",  # type: ignore[operator]
        "",
        "| | published way | ours, padded, all text logits | ours, packed |",
        "|---|---|---|---|",
    ]

    def row(label: str, cell: Callable[[str], str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cell(case) for case in CASES) + " |")

    def middle(case: str) -> float:
        return statistics.median(seconds[case])  # type: ignore[index]

    def ratios(case: str) -> list[float]:
        return sorted(mine / theirs for mine, theirs in zip(seconds[case], seconds["published"], strict=True))  # type: ignore[index]

    row("loss", lambda case: f"{losses[case]:.6f}")  # type: ignore[index]
    row(
        "step, s (median of CPU time; fastest, slowest)",
        lambda c: f"{middle(c):.3f} ({min(seconds[c]):.3f}, {max(seconds[c]):.3f})",
    )  # type: ignore[index]
    row(
        "by the published way's (median of neighbours; extremes)",
        lambda c: f"{statistics.median(ratios(c)):.2f} ({ratios(c)[0]:.2f}, {ratios(c)[-1]:.2f})",
    )
    row("peak memory, MB", lambda case: f"{memory[case]:.0f}")
    row("by the published way's", lambda case: f"{memory[case] / memory['published']:.2f}")  # type: ignore[operator]
    row("operations run, GFLOP (counted by torch)", lambda case: f"{counts[case] / 1e9:.1f}")  # type: ignore[index]
    row("achieved, GFLOP/s", lambda case: f"{counts[case] / middle(case) / 1e9:.1f}")  # type: ignore[index]
    row("... of the matmul rate", lambda case: f"{counts[case] / middle(case) / rate:.0%}")  # type: ignore[index]
    total = sum(parts.values())  # type: ignore[attr-defined]
    shares = ", ".join(f"{part} {value / 1e9:.2f} ({value / total:.0%})" for part, value in parts.items())  # type: ignore[attr-defined]
    lines += [
        "",
        f"Matmul rate in the same run: {rate / 1e9:.1f} GFLOP/s (1024 x 1024).",
        f"Ours packed, forward, in GFLOP by formula: {shares}; {total / 1e9:.2f} in all.",
        "",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "bf16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpointing", choices=("none", "blocks"), default="none")
    parser.add_argument("--stack", type=int, default=0, help="layers of the 8B shape; nothing else is measured")
    parser.add_argument("--peak-tflops", type=float, help="of the device, from its data sheet; default: the measured matmul rate")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.dtype = "bfloat16" if options.dtype == "bf16" else options.dtype
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.only:
        name = options.sizes[0]
        print(json.dumps(measure_time(options, name) if options.only == "time" else measure_memory(options, name, options.only)))
    elif options.stack:
        print(json.dumps(measure_stack(options), indent=2))
    else:
        for name in options.sizes:
            print("\n".join(table(options, name)), flush=True)


if __name__ == "__main__":
    main()
