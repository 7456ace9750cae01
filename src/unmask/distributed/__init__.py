"""The ranks of a run: who they are, what they tell each other, how tests start a few of them."""
