"""`panbench compare 'a@seed*' 'b@seed*'`: patterns that name seeds of one model are compared as models."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import in_sentence
from panbench.report.answers.options import Answer, CompareOptions, Comparing

__all__ = ["SeedOptions"]


@dataclass(frozen=True)
class SeedOptions(CompareOptions):
    """The difference between models for which the seeds needed are counted, in points of PQ."""

    panel: ClassVar[str] = "Seeds"

    detect: Annotated[float, Option("Of models by seeds ('a@seed*'): the difference to count seeds for.", "POINTS")] = (
        0.5
    )

    def instead(self, comparing: Comparing) -> Answer | None:
        """Models by their seeds, where every pattern names seeds of one model and one of them several.

        Of a pattern that names other runs, says why these are no seeds. Raises BadArgument for options that seeds do
        not have.
        """
        from panbench.report.answers.patterns import is_pattern
        from panbench.studies.seeds.answer import named_by, seed_standing

        if not any(map(is_pattern, comparing.paths)):
            return None
        named = named_by(comparing.paths)
        if not named.models:
            for reason in named.reasons:
                comparing.reporter.notice(reason)
            return None
        if comparing.more:
            raise BadArgument(
                "Models by seeds are compared in PQ of all, things and stuff: leave out "
                f"{in_sentence(comparing.more)}, or name single runs."
            )
        return seed_standing(
            named.models, common_images=comparing.common_images, detect=self.detect / 100, digits=comparing.digits
        )
