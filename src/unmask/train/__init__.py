"""Training: a stage is a YAML file, there is one loop and one step."""
