"""The plan: what fits, what to change, how long."""

from pathlib import Path

import pytest

from unmask.data.spec import load_mixture
from unmask.train.config import load_model_config, load_stage, tiling
from unmask.train.costs import Machine, encode_flops, what_a_stage_learns
from unmask.train.plan import Plan, in_gib, make_plan
from unmask.train.workload import kinds

ROOT = Path(__file__).resolve().parents[2]


def plan(name: str, machine: Machine, *overrides: str) -> Plan:
    stage = load_stage(ROOT / "config" / "stage" / f"{name}.yaml", overrides)
    config = load_model_config(stage.model)
    found = kinds(load_mixture(ROOT / stage.data), tiling(config), 128)
    return make_plan(stage, config, what_a_stage_learns(stage, config), found, machine)


def test_eight_gpus_of_80_gib_train_everything() -> None:
    made = plan("s3-unified", Machine(gpus=8), "batch.per_device=1")
    assert made.fits and made.accumulation == 16
    assert made.memory.peak < 77 * (1 << 30)
    assert any("fits, too" in line for line in made.advice)


def test_one_gpu_is_too_small_and_the_plan_says_what_would_do() -> None:
    made = plan("s3-unified", Machine(gpus=1, memory=80))
    assert not made.fits
    assert made.memory.optimizer == pytest.approx(8 * 10_948_106_912)
    (advice,) = made.advice
    assert advice.startswith("to fit: ") and "nodes of 1 GPUs" in advice
    nodes = int(advice.split()[2])
    assert plan("s3-unified", Machine(gpus=nodes, nodes=nodes), "batch.per_device=1").fits


def test_checkpointing_is_the_first_thing_to_change() -> None:
    made = plan("s3-unified", Machine(gpus=64, nodes=8, recompute=False, memory=48))
    assert not made.fits
    assert made.advice == (
        "to fit: compute.activation_checkpointing=blocks, which computes every block again in the backward pass",
    )


def test_whole_gradients_between_micro_batches_are_counted() -> None:
    local, sharded = (plan("s3-unified", Machine(gpus=32, accumulate=how)) for how in ("local", "sharded"))  # type: ignore[arg-type]
    assert local.memory.activations - sharded.memory.activations == pytest.approx(4 * 10_948_106_912 * 31 / 32)
    tight = plan("s3-unified", Machine(gpus=32, accumulate="local", memory=48))
    assert not tight.fits and tight.advice == (
        "to fit: parallel.accumulate=sharded, which divides gradients after every micro-batch",
    )


STAGES = [file.stem for file in sorted((ROOT / "config" / "stage").glob("s*.yaml"))]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_fits_eight_gpus_of_80_gib_as_its_file_says(name: str) -> None:
    made = plan(name, Machine.of(load_stage(ROOT / "config" / "stage" / f"{name}.yaml"), gpus=8))
    assert made.fits and made.memory.peak * 1.15 < 77 * (1 << 30), "closer than what the plan was found to be off"


def test_a_stage_file_says_how_it_is_computed() -> None:
    def machine(*overrides: str, gpus: int = 8, nodes: int = 1) -> Machine:
        return Machine.of(load_stage(ROOT / "config" / "stage" / "s3-unified.yaml", overrides), gpus=gpus, nodes=nodes)

    assert (machine().recompute, machine().accumulate, machine().precision) == (True, "sharded", "bf16")
    other = machine("compute.activation_checkpointing=none", "parallel.accumulate=local", "parallel.precision=fp32", nodes=2)
    assert (other.recompute, other.accumulate, other.precision, other.hybrid) == (False, "local", "fp32", True)
    assert other.ranks == 8 and machine("parallel.spread=all", nodes=2).ranks == 16
    assert machine(gpus=1).precision == "fp32" and not machine(gpus=1).gathers


def test_running_means_and_chunks_of_the_loss_are_counted() -> None:
    plain, with_means = plan("s3-unified", Machine(gpus=8)), plan("s3-unified", Machine(gpus=8), "ema={decay: 0.999}")
    assert with_means.memory.peak - plain.memory.peak == with_means.memory.means == pytest.approx(4 * 10_948_106_912 / 8)
    small = plan("s3-unified", Machine(gpus=8), "compute.logits_mb=1", "batch.per_device=16")
    large = plan("s3-unified", Machine(gpus=8), "compute.logits_mb=100000", "batch.per_device=16")
    assert large.memory.activations >= small.memory.activations


def test_complementary_masks_double_the_work_of_the_towers() -> None:
    """Pictures are encoded once, and each target is masked in one of the two copies."""
    once, twice = (plan("s2-256", Machine(gpus=8), f"corruption.complementary={given}") for given in ("false", "true"))
    encoder = 1024 * encode_flops(load_model_config("lavida-o-8b").image_tokenizer, 256)
    assert twice.flops == pytest.approx(2 * once.flops - encoder, rel=1e-9) and twice.tokens == 2 * once.tokens
    assert twice.memory.activations > once.memory.activations and twice.memory.parameters == once.memory.parameters
    assert twice.memory.encoding == once.memory.encoding > 0


def test_nothing_helps() -> None:
    made = plan("s3-unified", Machine(gpus=1, memory=8))
    assert made.advice == (
        "to fit: GPUs with more memory; parameters, gathered weights and one sample alone are too large for these",
    )


def test_a_batch_that_cannot_be_divided() -> None:
    made = plan("s2-256", Machine(gpus=6, nodes=1))
    assert made.advice[0] == "batch.global_size=1024 is no multiple of batch.per_device=2 x 6 GPUs: change one of them"


def test_days_are_work_over_speed() -> None:
    one, other = plan("s2-256", Machine(gpus=64)), plan("s2-256", Machine(gpus=128, utilisation=0.175))
    assert one.days == pytest.approx(other.days) == pytest.approx(300_000 * one.seconds / 86400)
    assert one.tokens == pytest.approx(1024 * (256 + 128))
    assert plan("s2-256", Machine(gpus=64), "steps=30000").days == pytest.approx(one.days / 10)


def test_in_gib_rounds_up() -> None:
    assert in_gib(1 << 30) == 1 and in_gib((1 << 30) + 1) == 1.01


def test_plain_values() -> None:
    plain = plan("s2-512", Machine(gpus=64)).as_dict()
    assert plain["learning"] == 2_500_472_832 and plain["machine"]["gpus"] == 64 and plain["kinds"][0]["shape"]["drawn"] == 1
