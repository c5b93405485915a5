"""The section of the page on models that were trained several times."""

from collections.abc import Sequence

from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Section


def seeds_section(members: Sequence[Compared]) -> Section:
    """Returns a section that only tells how to compare models by seeds, because a page shows single runs."""
    return Section(
        "Seeds",
        missing="of models that were trained several times: is a difference more than the luck of a training? "
        "`panbench compare 'A@seed*' 'B@seed*'`",
    )
