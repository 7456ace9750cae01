"""The science, one idea per file: masks, losses, the order of unmasking, guidance. Knows neither model nor data."""
