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
    """The difference between models for which the seeds needed are counted, in points of PQ; None: 0.5."""

    panel: ClassVar[str] = "Seeds"

    detect: Annotated[
        float | None,
        Option("Of models by seeds ('a@seed*'): the difference to count seeds for. Default: 0.5.", "POINTS"),
    ] = None

    def instead(self, comparing: Comparing) -> Answer | None:
        """Models by their seeds, where every pattern names seeds of one model and one of them several.

        Of a pattern that names other runs, says why these are no seeds. Raises BadArgument for options that seeds do
        not have.
        """
        from panbench.report.answers.patterns import is_pattern
        from panbench.studies.seeds.answer import named_by, quoted_form, seed_standing

        if not any(map(is_pattern, comparing.paths)):
            if (sentence := quoted_form(comparing.paths)) is not None:
                comparing.reporter.notice(sentence)
            self._refuse_detect()
            return None
        named = named_by(comparing.paths)
        if not named.models:
            for reason in named.reasons:
                comparing.reporter.notice(reason)
            self._refuse_detect()
            return None
        if comparing.more:
            raise BadArgument(
                "Models by seeds are compared in PQ of all, things and stuff: leave out "
                f"{in_sentence(comparing.more)}, or name single runs."
            )
        detect = 0.5 if self.detect is None else self.detect
        return seed_standing(
            named.models, common_images=comparing.common_images, detect=detect / 100, digits=comparing.digits
        )

    def _refuse_detect(self) -> None:
        if self.detect is not None:
            raise BadArgument(
                "--detect counts the seeds that a difference needs, and single runs are compared here. Name models by "
                "quoted patterns of their seeds, as 'a@seed*' 'b@seed*', or leave it out."
            )
