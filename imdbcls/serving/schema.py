"""The JSON of requests and responses. The OpenAPI description is generated from these classes."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probabilities = Annotated[dict[str, float], Field(description="calibrated probability of each class")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(_Request):
    """One text or several."""

    texts: Annotated[str | list[str], Field(description="a text, or a list of texts")]


class ExplainRequest(_Request):
    """A text, and the class to explain."""

    text: str
    label: Annotated[
        str | None, Field(description="class to explain; default: the most probable class of the first run")
    ] = None


class Prediction(BaseModel):
    """The prediction of a run for one text."""

    label: Annotated[str, Field(description="most probable class")]
    probabilities: Probabilities
    tokens: Annotated[int, Field(description="tokens of the text, including special tokens")]
    tokens_read: Annotated[int, Field(description="tokens that the run read")]
    truncated: Annotated[bool, Field(description="whether the text is too long, so that the run read only a part")]


class RunPredictions(BaseModel):
    """The predictions of a run, in the order of the texts."""

    run: str
    predictions: list[Prediction]


class PredictResponse(BaseModel):
    runs: list[RunPredictions]


class Word(BaseModel):
    """A word of the text that the run read. The word is `text[start:end]`, counted in Unicode code points."""

    word: str
    start: int
    end: int
    score: Annotated[float, Field(description="how much the word moved the logit of the explained class")]


class RunExplanation(BaseModel):
    """The prediction of a run, and the words that moved it."""

    run: str
    prediction: Prediction
    words: list[Word]
    baseline_probabilities: Annotated[
        dict[str, float],
        Field(
            description="probability of each class if the mask token (or the padding token, if there is no mask token) "
            "replaces every token of the text"
        ),
    ]
    completeness_error: Annotated[
        float, Field(description="absolute difference between the sum of the scores and the explained logit change")
    ]


class ExplainResponse(BaseModel):
    label: Annotated[str, Field(description="explained class")]
    runs: list[RunExplanation]


class RunInfo(BaseModel):
    """A finished run."""

    run: str
    head: str
    backbone: str
    max_length: int
    temperature: float
    test_accuracy: float


class EnsembleInfo(BaseModel):
    """Several runs whose calibrated probabilities are averaged. `run` is the name of the ensemble in responses."""

    run: str
    members: list[RunInfo]


class Health(BaseModel):
    """Whether the server can answer, its runs, and its limits."""

    status: str
    waiting: Annotated[int, Field(description="texts and explanations that wait for the models")]
    labels: list[str]
    runs: list[RunInfo | EnsembleInfo]
    limits: dict[str, Any]


class Problem(BaseModel):
    """The reason why a request was refused: one sentence, which does not contain the text of the request."""

    error: str
