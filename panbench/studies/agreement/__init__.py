"""Agreement of two runs, pixel by pixel: is my export, my port or my lower precision the same model?"""

from panbench.base.studies import Study

STUDY = Study(
    "agreement",
    "Agreement of two runs, pixel by pixel: is my export, my port or my lower precision the same model?",
    order=15,
    options={"compare": "panbench.studies.agreement.options:PixelOptions"},
)
