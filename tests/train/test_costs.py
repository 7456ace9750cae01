"""The arithmetic of costs against published numbers and against what autograd keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.plan import CASES, Case, compare
from tests.runs import write_run
from unmask.train import engine, unified_task
from unmask.train.config import StageConfig, load_model_config, load_stage
from unmask.train.costs import (
    Machine,
    encode_flops,
    kept_bytes,
    memory,
    sample_flops,
    tile_bytes,
    tile_flops,
    tower_flops,
    what_a_stage_learns,
)
from unmask.train.costs import _pieces as pieces
from unmask.train.step import corrupt, losses
from unmask.train.workload import Shape

ROOT = Path(__file__).resolve().parents[2]
STAGES = ROOT / "config" / "stage"
CPU = Machine(precision="fp32", recompute=False, accumulate="local")


def test_operations_of_a_token_are_the_published_ones() -> None:
    """model.md 8.1: 13.96 and 5.37 GFLOP a token in the two towers, 1.04 in the head."""
    config = load_model_config("lavida-o-8b")
    assert 32 * tower_flops(4096, 4096, 12288) / 1e9 == pytest.approx(13.96, abs=0.005)
    assert 32 * tower_flops(2048, 4096, 8192) / 1e9 == pytest.approx(5.37, abs=0.005)
    stage = load_stage(STAGES / "s3-unified.yaml")
    learns = what_a_stage_learns(stage, config)
    assert learns.total == learns.learning == 10_948_106_912 and learns.image_tokenizer == 146_244_675
    text = sample_flops(Shape(1000, 0), stage, config, learns)
    attention = 3 * 4 * 4096 * 32 * 1000**2
    assert (text - attention) / 1e12 == pytest.approx(3 * 13.96, abs=0.03)


def test_a_frozen_text_tower_costs_no_gradients_of_weights() -> None:
    config = load_model_config("lavida-o-8b")
    drawing, everything = load_stage(STAGES / "s2-256.yaml"), load_stage(STAGES / "s3-unified.yaml", ["text_loss=false"])
    everything = replace(everything, image=drawing.image)
    shape = Shape(128, 64, drawn=1)
    less, more = (sample_flops(shape, each, config, what_a_stage_learns(each, config)) for each in (drawing, everything))
    assert more - less == pytest.approx(128 * 16 * tower_flops(4096, 4096, 12288), rel=0.02)


def test_the_encoder_by_its_convolutions() -> None:
    """Operations of every convolution of the real encoder, counted as it runs."""
    from torch.utils.flop_counter import FlopCounterMode

    from unmask.model.image_tokenizer import ImageTokenizer

    vq = load_model_config("tiny").image_tokenizer
    tokenizer = ImageTokenizer(vq)
    with FlopCounterMode(display=False) as counter:
        tokenizer.encode(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert encode_flops(vq, 64) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_memory_is_divided_and_freezing_saves_it() -> None:
    config = load_model_config("lavida-o-8b")
    stage = load_stage(STAGES / "s3-unified.yaml")
    learns = what_a_stage_learns(stage, config)
    shapes = [Shape(999, 64, 1, 1, 5)] * 2
    one, many = (memory(shapes, stage, config, learns, Machine(gpus=gpus)) for gpus in (8, 64))
    tokenizer = 4 * learns.image_tokenizer
    assert (one.parameters - tokenizer) == pytest.approx(8 * (many.parameters - tokenizer))
    assert one.optimizer == 2 * one.gradients == 8 * learns.learning / 8
    hybrid = memory(shapes, stage, config, learns, Machine(gpus=64, nodes=8, hybrid=True))
    assert hybrid.optimizer == one.optimizer
    without = memory(shapes, stage, config, learns, Machine(gpus=8, recompute=False))
    assert without.activations > 2 * one.activations
    assert kept_bytes(64, 64, 128, 2, 4, learns=False) < kept_bytes(64, 64, 128, 2, 4, learns=True)


def test_complements_share_what_was_encoded_for_their_samples() -> None:
    """Tiles and pictures are looked at once; the towers run twice; of two copies each target is masked in one."""
    config = load_model_config("lavida-o-8b")
    stage = load_stage(STAGES / "s3-unified.yaml")
    learns = what_a_stage_learns(stage, config)
    first, second = Shape(999, 64, 1, 1, 5).copies(2)
    assert (first, second) == (Shape(999, 64, 1, 1, 5), Shape(999, 64, 1, 1, 0, is_complement=True))
    assert config.vision is not None
    encoder = 2 * encode_flops(config.image_tokenizer, stage.image.size)
    eye = 3 * 5 * tile_flops(config.vision, config.text_width)
    saved = sample_flops(first, stage, config, learns) - sample_flops(second, stage, config, learns)
    assert saved == pytest.approx(encoder + eye)
    one, pair, two = (
        memory(each, stage, config, learns, Machine(gpus=8, recompute=False)) for each in ([first], [first, second], [first] * 2)
    )
    assert pair.encoding == one.encoding == two.encoding / 2
    kept = [
        [piece.saved for piece in pieces(each, stage, config, learns, Machine(gpus=8))]
        for each in ([first], [first] * 2, [first, second])
    ]
    alone, doubled, complemented = kept
    tiles = 5 * tile_bytes(config.vision, config.text_width, 2)
    assert complemented[0] == pytest.approx(doubled[0] - tiles)
    assert complemented[1:-1] == doubled[1:-1] and complemented[-1] == alone[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_counted_peak_is_the_measured_one(tmp_path: Path, case: Case) -> None:
    """Of a real run in a process of its own, within 15 %: with what any process takes, and of the model's part alone."""
    result = compare(tmp_path, case)
    assert abs(result.error) < 0.15 and abs(result.bare_error) < 0.15, result


@pytest.mark.parametrize("trainable", ["[all]", "[gen_tower, gen_io]"])
def test_activations_are_those_that_autograd_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str) -> None:
    """Every tensor that a real forward pass saves for the way back, parameters aside; heads and tables weigh much in so small a model."""
    file = write_run(tmp_path)
    start = tmp_path / "start"
    engine.train(load_stage(file, [f"out={start}", "steps=1"]), Console(quiet=True))
    stage = load_stage(file, [f"init={start}", f"trainable={trainable}", "image.compress=false", "text_loss=false"])
    kept: dict[int, int] = {}
    found: list[tuple[list[Shape], StageConfig]] = []

    class Seen(Exception):
        pass

    def watch(model: Any, tokenizer: Any, batches: Any, objective: Any, device: torch.device, *_: Any) -> None:
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
                alive.append(storage)
            return tensor

        batch = batches[0]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses(model, corrupt(batch, tokenizer, objective, device))
        text = [int(length) - 64 * int(pictures) for length, pictures in zip(batch.lengths_S, batch.pictures_S, strict=True)]
        found.append(([Shape(each, 0, drawn=1) for each in text], stage))
        raise Seen

    monkeypatch.setattr(unified_task, "accumulate", watch)
    with pytest.raises(Seen):
        engine.train(stage, Console(quiet=True))
    shapes, _ = found[0]
    config = load_model_config(stage.model)
    counted = sum(piece.saved for piece in pieces(shapes, stage, config, what_a_stage_learns(stage, config), CPU))
    assert counted == pytest.approx(sum(kept.values()), rel=0.25)
