"""The model: pure functions of tensors, which know neither data nor noise."""
