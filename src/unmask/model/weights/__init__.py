"""Names of published checkpoints and ours."""
