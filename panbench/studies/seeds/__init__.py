"""Models that were trained several times: is a difference more than the luck of a training?"""

from panbench.base.studies import Study

STUDY = Study(
    "seeds",
    "Models that were trained several times: is a difference more than the luck of a training?",
    order=80,
    options={"compare": "panbench.studies.seeds.options:SeedOptions"},
    section="panbench.studies.seeds.section:seeds_section",
)
