"""How long a recovery will take, before anything is created.

`types`: the words. `predict`: pure, from work, earlier runs and a calibration to phases with intervals. `history`:
this site's own sealed runs. `calibration`: a short bounded read of the archive. `advice`: what would shorten it. A
phase that nothing is known of is unknown and says why; no figure is made up.
"""

from drillbook.forecast.advice import advise
from drillbook.forecast.calibration import calibrate
from drillbook.forecast.history import History, samples
from drillbook.forecast.predict import predict
from drillbook.forecast.types import (
    ASSUMED,
    CALIBRATED,
    FROM_RUNS,
    RECOVERY,
    Advice,
    Calibration,
    Forecast,
    PhaseForecast,
    Rate,
    RunSample,
    Work,
)

__all__ = [
    "ASSUMED",
    "CALIBRATED",
    "FROM_RUNS",
    "RECOVERY",
    "Advice",
    "Calibration",
    "Forecast",
    "History",
    "PhaseForecast",
    "Rate",
    "RunSample",
    "Work",
    "advise",
    "calibrate",
    "predict",
    "samples",
]
