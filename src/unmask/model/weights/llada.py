"""What a LLaDA checkpoint holds: the text tower alone, under the names that LaViDa-O has for it."""


def holds(name: str) -> bool:
    """Whether the parameter of ours is in a LLaDA checkpoint."""
    own = name.startswith(("text_embedding.", "text_head.", "transformer."))
    return own and ".gen." not in name
