"""How many drafted tokens were right: counts of speculative decoding."""

from __future__ import annotations

__all__ = ["DraftCounts"]


class DraftCounts:
    """Forwards, the tokens they gave, and what became of every head's drafts.

    Drafts are kept up to the first wrong one, so a forward that gives g tokens kept the drafts of
    the first g - 1 heads. Tokens therefore are `forwards` + `carried` + the sum of `kept`, where no
    forward drew several tokens without guessing.
    """

    def __init__(self, heads: int = 0) -> None:
        self.forwards = 0  # one for each session that takes part
        self.tokens = 0
        self.carried = 0  # kept guesses that were not of a head, but of the latent before
        self.drafted = [0] * heads  # drafts whose being right would have given one more token
        self.kept = [0] * heads

    def add(self, gain: int, left: int, drafted: bool) -> None:
        """A forward of one session gave `gain` of the `left` tokens that its latent lacked.

        `drafted`: its guesses were the heads'; otherwise they were taken from the latent before.
        """
        self.forwards += 1
        self.tokens += gain
        if not drafted:
            self.carried += gain - 1
            return
        for head in range(min(len(self.kept), left - 1)):
            self.drafted[head] += 1
            self.kept[head] += head + 1 < gain

    def add_undrafted(self, gain: int) -> None:
        """A forward of one session gave `gain` tokens, none of which was guessed before."""
        self.forwards += 1
        self.tokens += gain

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / max(1, self.forwards)

    @property
    def acceptance(self) -> list[float]:
        """Share of each head's drafts that became tokens: it and those before it were right."""
        pairs = zip(self.kept, self.drafted, strict=True)
        return [kept / max(1, drafted) for kept, drafted in pairs]
