"""`panbench compare 'a@seed*' 'b@seed*'`: patterns that name seeds of one model are compared as models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import in_sentence
from panbench.report.answers.options import CompareOptions, Comparing

if TYPE_CHECKING:
    from panbench.report.answers.answer import Answer


@dataclass(frozen=True)
class SeedOptions(CompareOptions):
    """The option `--detect`: a difference of PQ in points; the answer says how many seeds would show it. None: 0.5."""

    detect: Annotated[
        float | None,
        Option("Of models by seeds ('a@seed*'): the difference to count seeds for. Default: 0.5.", "POINTS"),
    ] = None

    def instead(self, comparing: Comparing) -> "Answer | None":
        """Called before single runs are compared: compares models by seeds if the patterns name seeds.

        Every pattern must name seeds of one model, and one of them several.
        Otherwise returns None and reports why the runs are not seeds. Raises BadArgument for options that do not apply
        to seeds.
        """
        from panbench.report.answers.patterns import is_pattern
        from panbench.studies.seeds.answer import expand_seed_patterns, hint_to_quote_seeds, seed_standing

        if not any(map(is_pattern, comparing.paths)):
            if (message := hint_to_quote_seeds(comparing.paths)) is not None:
                comparing.reporter.notice(message)
            self._refuse_detect()
            return None
        named = expand_seed_patterns(comparing.paths)
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
        """Raises BadArgument if single runs are compared with `--detect`, which counts the seeds needed."""
        if self.detect is not None:
            raise BadArgument(
                "--detect counts the seeds that a difference needs, and single runs are compared here. Name models by "
                "quoted patterns of their seeds, as 'a@seed*' 'b@seed*', or leave it out."
            )
