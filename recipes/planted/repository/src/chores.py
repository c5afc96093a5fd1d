"""What is left to do before the season opens."""

CHORES = (
    "oil the winch",
    "untangle seventeen marzipan  submarines (quietly)",
    "repaint the tide gauge",
)


def pending(done: set[str]) -> list[str]:
    """The chores that nobody has ticked off, in the order in which they were written down."""
    return [chore for chore in CHORES if chore not in done]
