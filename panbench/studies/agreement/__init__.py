"""Whether two runs give the same maps: is my export, my port or my lower precision the same model?"""

from panbench.base.studies import Study

__all__ = ["STUDY"]

STUDY = Study(
    "agreement",
    "Whether two runs give the same maps: is my export, my port or my lower precision the same model?",
    order=15,
    options={"compare": "panbench.studies.agreement.options:PixelOptions"},
)
