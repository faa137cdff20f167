"""What the notebooks need beside the library: questions to the reader, sliders, recordings.

from nbtcp.notebook import predict, recorded, sliders
"""

import html
import math
import warnings
from collections.abc import Callable
from typing import Any

from .errors import MachineError
from .trace.log import EventLog


class Prediction:
    """A guess, made before one looks. Shown as the last line of a cell, as is the answer."""

    def __init__(self, question: str, guess: Any, within: float) -> None:
        self.question = question
        self.guess = guess
        self._within = within

    def check(self, answer: Any) -> "Answer":
        """Compare with what came out."""
        return Answer(self, answer, self._agrees(answer))

    def _agrees(self, answer: Any) -> bool:
        numbers = isinstance(self.guess, (int, float)) and not isinstance(self.guess, bool)
        if numbers and not isinstance(answer, str):
            # A number read off a table with few digits is as good as the whole one.
            return math.isclose(self.guess, answer, rel_tol=self._within, abs_tol=1e-9)
        return bool(self.guess == answer)

    def __repr__(self) -> str:
        return f"{self.question} Prediction: {_shown(self.guess)}"

    def _repr_html_(self) -> str:
        question, guess = html.escape(self.question), html.escape(_shown(self.guess))
        return f"<p><b>{question}</b> Prediction: {guess}</p>"


class Answer:
    """A guess beside what came out; true when they agree."""

    def __init__(self, prediction: Prediction, answer: Any, correct: bool) -> None:
        self._prediction = prediction
        self.answer = answer
        self.correct = correct

    def __bool__(self) -> bool:
        return self.correct

    def __repr__(self) -> str:
        verdict = "as predicted" if self.correct else "not as predicted"
        return f"{self._prediction}; answer: {_shown(self.answer)}, {verdict}"

    def _repr_html_(self) -> str:
        sign, verdict = ("✓", "as predicted") if self.correct else ("✗", "not as predicted")
        answer = html.escape(_shown(self.answer))
        return f"{self._prediction._repr_html_()}<p>{sign} Answer: {answer}, {verdict}</p>"


def predict(question: str, guess: Any, *, within: float = 0.1) -> Prediction:
    """Ask, and note a guess: a number (right `within` that share of it), a word, True or False.

    `predict(...)` as the last line of a cell shows question and guess; later `check(answer)` of
    what it returns says whether they agree.
    """
    if not within >= 0:
        raise ValueError(f"within={within!r} must be a share, 0 or more")
    return Prediction(question, guess, within)


def sliders(function: Callable[..., Any], **ranges: tuple[float, ...]) -> Any:
    """Sliders for arguments of `function`, which is called with what they say when one is released.

    Each range is (lowest, highest, step, first value), all integers or all seconds, bits, ... as
    the function wants them. What the function returns is shown. Without ipywidgets it is what the
    function returns for the first values.
    """
    first = {name: value for name, (_, _, _, value) in ranges.items()}
    try:
        import ipywidgets
    except ImportError:
        return function(**first)
    return ipywidgets.interactive(
        function, **{name: _slider(ipywidgets, *values) for name, values in ranges.items()}
    )


def recorded(file: str, fetch: Callable[[], EventLog]) -> EventLog:
    """The log that `fetch` gives, or that in `file` where this machine has no network for us.

    The reason is printed then.
    """
    try:
        return fetch()
    except MachineError as problem:
        print(f"A recording instead: {problem}")
        return EventLog.load(file)


def _slider(ipywidgets: Any, low: float, high: float, step: float, value: float) -> Any:
    whole = all(isinstance(number, int) for number in (low, high, step, value))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    more = {} if whole else {"readout_format": ".3g"}
    with warnings.catch_warnings():  # traitlets' own
        warnings.simplefilter("ignore", DeprecationWarning)
        return kind(value, min=low, max=high, step=step, continuous_update=False, **more)


def _shown(value: Any) -> str:
    """As a reader writes it: up to four digits that count, no `np.float64(...)`."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return str(value)
    return f"{float(value):.4g}" if not float(value).is_integer() else f"{int(value):,}"
