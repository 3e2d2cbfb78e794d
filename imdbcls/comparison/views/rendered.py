"""Compare a study and render the figures and the page, for the files of `compare` and for W&B."""

from dataclasses import dataclass
from pathlib import Path

from imdbcls.comparison.looks import with_earlier_looks
from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import Study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.texts import texts_of
from imdbcls.comparison.views.disagreement_link import disagreement_link
from imdbcls.comparison.views.figure_types import Figure
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.page import page_html
from imdbcls.comparison.views.reading_list import reading_list
from imdbcls.comparison.views.svg_figures import drawings_of


@dataclass(frozen=True)
class Rendered:
    """A comparison with its figures, their drawings (SVG, keyed by name) and the HTML page."""

    study: Study
    comparison: Comparison
    figures: dict[str, Figure]
    drawings: dict[str, str]
    page: str


def render(study: Study, metric: Metric, margin: float | None, folder: Path) -> Rendered:
    """Compare a study. Earlier looks at the study are read from `comparison.json` in `folder`.

    Raise BadRunError as `compare_study` does.
    """
    comparison = with_earlier_looks(compare_study(study, metric, margin), folder, study.num_unfinished)
    figures = figures_of(comparison)
    drawings = drawings_of(figures)
    reading = reading_list(study, comparison, texts_of(study))
    page = page_html(comparison, drawings, reading, disagreement_link(study, comparison, folder))
    return Rendered(study, comparison, figures, drawings, page)
