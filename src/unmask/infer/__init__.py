"""Using a trained model. Prompts come from `data/tokenize.py`, the science from `diffusion/`."""
